"""What runs on a node for verification: an executor, and the databases of the driver."""

from __future__ import annotations

import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import spftcore
from spftcore.cluster.files import CHUNK, Absent, Asking, Facts, NodeFiles
from spftcore.verify import Executor, Status
from spftcore.verify.answers import Columns, encode_executed, encode_rows, encode_verified
from spftcore.verify.isolation_batches import Preset
from spftcore.verify.native import attached_module

STOPPED = b"stopped"
CHUNKS_AHEAD = 3  # of a file that is fetched, on their way at a time
_REMEMBERED_STOPS = 256

# A path as the driver's caller wrote it, as an absolute one, and what the driver sees there.
Source = tuple[bytes, bytes, Facts | None]


class _Stopped(Exception):
    """The driver wants no more of this batch."""


def software() -> tuple[str, ...]:
    """What must be the same on all nodes for verdicts to be."""
    import apsw

    return (f"spftcore {spftcore.__version__}", f"SQLite {apsw.sqlite_lib_version()}")


def asking(name: str) -> Asking:
    """The driver's machine through its `Origin` actor."""
    import ray

    origin = ray.get_actor(name)

    def failing(reference: Any) -> Any:
        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            raise Absent(
                f"The driver's machine cannot be asked ({type(error).__name__})."
            ) from None

    def chunks(path: bytes, size: int) -> Iterator[bytes]:
        ahead: deque[Any] = deque()
        for offset in range(0, size, CHUNK):
            ahead.append(origin.read.remote(path, offset))
            if len(ahead) >= CHUNKS_AHEAD:
                yield failing(ahead.popleft())
        while ahead:
            yield failing(ahead.popleft())

    return Asking(
        digest=lambda path: failing(origin.digest.remote(path)),
        refusal=lambda path: failing(origin.refusal.remote(path)),
        chunks=chunks,
    )


class VerifyWorker:
    """Runs shards of batches; an actor, whose `run` is called by two threads at a time, so that the
    last slow query of a shard does not idle it.

    Args:
        arguments: of the `Executor`.
        origin: name of the driver's `Origin` actor.
        cache: folder for databases that the node does not see.
    """

    def __init__(self, arguments: dict[str, Any], origin: str, cache: Path) -> None:
        self._executor = Executor(**arguments)
        self.files = NodeFiles(asking(origin), cache)
        self._stopped: deque[int] = deque(maxlen=_REMEMBERED_STOPS)

    def hello(self) -> tuple[tuple[str, ...], str]:
        """Versions, and where this is."""
        return software(), f"{os.uname().nodename} ({sys.executable})"

    def stop(self, batch: int) -> None:
        """Ends what is under way of a batch, and what is still to come of it."""
        self._stopped.append(batch)

    def run(self, request: bytes) -> tuple[bytes, dict[str, int]]:
        """Answers a shard (`answers.py`), and tells what this worker has fetched so far.

        Args:
            request: pickle of (batch, kind, argument, units, presets, sources).
        """
        batch, kind, argument, units, presets, sources = pickle.loads(request)
        native = self._executor._native

        def poll(done: int, total: int) -> None:
            if batch in self._stopped:
                raise _Stopped

        here, refused = self._located(sources)
        units = [(here[unit[0]], *unit[1:]) for unit in units]
        if refused:
            presets = [*presets, *_settled(units, refused, argument)]
        names = {local: path for path, local in here.items() if local != path}
        try:
            poll(0, 0)
            if kind == "verify":
                verified = native.verify(units, argument, presets, poll)
                _rename(verified["outcomes"]["messages"], names)
                answer = encode_verified(verified, native.counters())
            elif kind == "execute":
                outcomes, index = native.execute(units, presets, poll)
                each = _one_each(outcomes, index, names)
                answer = encode_executed(each, native.counters())
            elif units[0][0] in refused:
                status = int(Status.DATABASE_ERROR)
                answer = encode_rows((status, refused[units[0][0]], [], []), native.counters())
            else:
                answer = encode_rows(native.rows(*units[0]), native.counters())
        except _Stopped:
            answer = STOPPED
        fetched = {
            "databases_fetched": self.files.fetched,
            "bytes_fetched": self.files.fetched_bytes,
        }
        return answer, fetched

    def _located(self, sources: list[Source]) -> tuple[dict[bytes, bytes], dict[bytes, str]]:
        """Where each database is on this node, and which are not to be had, with the reason."""
        here, refused = {}, {}
        for path, absolute, facts in sources:
            here[path] = absolute
            if facts is not None:  # else the driver has none: the node may
                try:
                    here[path] = self.files.database(facts)
                except Absent as absent:
                    refused[absolute] = str(absent)
        return here, refused


def _settled(
    units: list[tuple[Any, ...]], refused: dict[bytes, str], argument: int
) -> Iterator[Preset]:
    digest: Callable[[bytes, str, int], bytes] = attached_module().query_digest
    for database, *texts in units:
        if database in refused:
            for sql in queries_of(texts):
                status = int(Status.DATABASE_ERROR)
                yield digest(database, sql, argument), status, refused[database]


def queries_of(texts: list[Any]) -> list[str]:
    """The SQL of a unit: (sql,) or (gold, candidates)."""
    return list(dict.fromkeys([texts[0], *(texts[1] if len(texts) > 1 else ())]))


def _rename(messages: dict[int, str], names: dict[bytes, bytes]) -> None:
    """Messages name databases as the caller does."""
    for number, message in messages.items() if names else ():
        for local, path in names.items():
            message = message.replace(os.fsdecode(local), os.fsdecode(path))
        messages[number] = message


def _one_each(
    outcomes: Columns, index: NDArray[np.uint32], names: dict[bytes, bytes]
) -> tuple[Columns, NDArray[np.uint32]]:
    """One outcome for each query: two databases of one content are one file on this node."""
    messages = dict(outcomes["messages"])
    _rename(messages, names)
    places = index.tolist()
    each = {name: column[index] for name, column in outcomes.items() if name != "messages"}
    each["messages"] = {i: messages[n] for i, n in enumerate(places) if n in messages}
    return each, np.arange(len(index), dtype=np.uint32)
