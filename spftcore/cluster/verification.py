"""An executor whose queries run on the nodes of a Ray cluster."""

from __future__ import annotations

import itertools
import os
import pickle
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spftcore.cluster.connection import connected, cpus
from spftcore.cluster.files import Facts, default_cache
from spftcore.cluster.shards import Shard, Shards, placed
from spftcore.cluster.worker import STOPPED, VerifyWorker, queries_of
from spftcore.cluster.workers import Slot, Workers, last_line, started_origin
from spftcore.errors import SpftError, UsageError
from spftcore.verify import Compare, Executor, Item, Judgement, Limits, Status
from spftcore.verify.answers import (
    COUNTERS,
    Columns,
    Nonsense,
    decode_executed,
    decode_rows,
    decode_verified,
)
from spftcore.verify.executor import Isolation
from spftcore.verify.isolation_batches import (
    Kind,
    Poll,
    Pool,
    Preset,
)
from spftcore.verify.native import attached_module
from spftcore.verify.outcomes import DEFAULT_LIMITS

WINDOW = 2  # shards on their way to or at work on a worker, of one batch
# Queries of a shard. A request costs about 2 ms, as long as some 20 short queries.
LEAST_QUERIES = 128
MOST_QUERIES = 2048
STREAM_ITEMS = 1024  # per worker, of one batch of `stream`


class ClusterExecutor(Executor):
    """Runs and judges SQL like `Executor`, on workers of a Ray cluster.

    Verdicts are those of `Executor`, in the same order. Databases are read where a node sees them
    at the driver's path, and fetched once per node otherwise. A lost worker is replaced and what it
    had is run again; an item whose worker is lost again and again, alone at last, comes back
    unjudged with the status CRASHED.

    Args:
        address: of the cluster (`connection.connected`).
        workers: how many; 0 for as many as the cluster has CPUs for.
        cpus_per_worker: CPUs, and threads, of each.
        limits, families, isolation: as of `Executor`; families lie with the driver.
        cache: folder on each node for databases fetched.

    Raises:
        SpftError: there is no Ray, no cluster, no room for a worker, or another version on a node.
    """

    def __init__(
        self,
        address: str = "auto",
        workers: int = 0,
        cpus_per_worker: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        families: str | Path | None = None,
        isolation: Isolation = "thread",
        cache: Path | None = None,
    ) -> None:
        if workers < 0 or cpus_per_worker < 1:
            raise UsageError(
                "workers must not be negative and cpus_per_worker at least 1, not "
                f"{workers} and {cpus_per_worker}."
            )
        self.limits = limits
        self._process = os.getpid()
        self._families = None if families is None else Path(families)
        arguments = {"threads": cpus_per_worker, "limits": limits, "isolation": isolation}
        self._native = ClusterPool(
            address, workers, cpus_per_worker, arguments, cache or default_cache()
        )

    def stream(
        self,
        items: Iterable[Item],
        compare: Compare = "bag",
        *,
        on: Literal["file", "family"] = "file",
        chunk: int = 0,
    ) -> Iterator[list[Judgement]]:
        """As of `Executor`; `chunk` 0 for a size that keeps all workers busy."""
        workers = self._usable().workers
        return super().stream(items, compare, on=on, chunk=chunk or STREAM_ITEMS * max(4, workers))


@dataclass
class _Batch:
    """What `merge_executed` and `merge_verified` ask for, and what is under way."""

    number: int
    kind: Kind
    argument: int
    units: Sequence[tuple[Any, ...]]
    weights: Sequence[int]
    presets: Sequence[Preset]
    shards: Shards
    sources: dict[bytes, tuple[bytes, bytes, Facts | None]]
    finished: list[tuple[Shard, Any]] = field(default_factory=list)
    # By reference of the answer: slot, its life, shard.
    asked: dict[Any, tuple[Slot, int, Shard]] = field(default_factory=dict)
    done: int = 0

    def request(self, shard: Shard) -> bytes:
        units = [self.units[place] for place in shard.units]
        sources = [self.sources[path] for path in dict.fromkeys(unit[0] for unit in units)]
        return pickle.dumps(
            (self.number, self.kind, self.argument, units, self.presets, sources), protocol=5
        )

    def decoded(self, units: Sequence[int], answer: bytes) -> tuple[Any, Columns]:
        if self.kind == "verify":
            return decode_verified(answer, [len(self.units[place][2]) for place in units])
        if self.kind == "execute":
            return decode_executed(answer, len(units))
        return decode_rows(answer)

    def queries(self, shard: Shard) -> int:
        return sum(self.weights[place] for place in shard.units)


class ClusterPool(Pool):
    """Workers of a cluster, with the methods of the C++ executor.

    Args:
        address, workers, cpus_per_worker, cache: as of `ClusterExecutor`.
        arguments: of each worker's `Executor`.
    """

    def __init__(
        self,
        address: str,
        workers: int,
        cpus_per_worker: int,
        arguments: Mapping[str, Any],
        cache: Path,
    ) -> None:
        self._ray = ray = connected(address)
        # A given-up item is put into words here; nothing of it is run.
        self._own = Executor(threads=1, limits=arguments["limits"])
        self.workers = workers or sum(count // cpus_per_worker for count in cpus(ray))
        self.threads = self.workers * cpus_per_worker
        if not self.workers:
            raise SpftError(
                f"No node of the cluster has {cpus_per_worker} CPUs for a worker. Lower "
                "cluster.worker_cpus, or add nodes."
            )
        self._lock = threading.Lock()  # guards the counts
        self._batches = itertools.count()
        self._past: Columns = _none()
        self._counters: dict[tuple[int, int], Columns] = {}  # by slot and life
        self._fetched: dict[tuple[int, int], dict[str, int]] = {}
        self._counts = {"shards_repeated": 0, "items_given_up": 0}
        self._origin, origin = started_origin(ray)
        actor = ray.remote(concurrency_groups={"work": WINDOW})(VerifyWorker).options(
            num_cpus=cpus_per_worker, max_restarts=-1, scheduling_strategy="SPREAD"
        )
        self._all = Workers(
            ray,
            lambda: actor.remote(dict(arguments), origin, cache),
            self.workers,
            f"{cpus_per_worker} CPUs",
        )

    # -- the methods of the C++ executor -------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """Those of all workers, also of the lost ones, and what became of workers and files."""
        with self._lock:
            total: Columns = _sum([self._past, *self._counters.values()])
            for name in ("databases_fetched", "bytes_fetched"):
                total[name] = sum(fetched[name] for fetched in self._fetched.values())
            return total | self._counts | {"workers_lost": self._all.lost}

    def close(self) -> None:
        """Ends the workers; the connection to the cluster stays."""
        self._all.close()
        if self._ray.is_initialized():
            self._ray.kill(self._origin)
        self._own.close()

    # -- a batch -------------------------------------------------------------------------------

    def _count_duplicates(self, repeats: int) -> None:
        with self._lock:
            self._past["queries"] += repeats
            self._past["duplicates"] += repeats

    def _run(
        self,
        kind: Kind,
        argument: int,
        units: Sequence[tuple[Any, ...]],
        presets: Sequence[Preset],
        poll: Poll | None,
    ) -> _Batch:
        weights = [1 + len(unit[2]) for unit in units] if kind == "verify" else [1] * len(units)
        queues = placed([unit[0] for unit in units], weights, self.workers)
        shards = Shards(queues, weights, least=LEAST_QUERIES, most=MOST_QUERIES)
        number, sources = next(self._batches), _sources(units)
        batch = _Batch(number, kind, argument, units, weights, presets, shards, sources)
        total = sum(weights)
        try:
            while not shards.over:
                self._hand_out(batch)
                for reference in self._all.wait(batch.asked):
                    self._take_in(batch, reference)
                if poll is not None:
                    poll(batch.done, total)
        finally:
            for slot in {slot.number: slot for slot, _, _ in batch.asked.values()}.values():
                slot.actor.stop.remote(batch.number)
        return batch

    def _hand_out(self, batch: _Batch) -> None:
        """Gives every worker as much as it may have."""
        loads = [0] * self.workers
        kept = [False] * self.workers  # has something that must be alone
        for slot, _, shard in batch.asked.values():
            loads[slot.number] += 1
            kept[slot.number] |= shard.losses > 0
        for _ in range(WINDOW):  # in turn, so that the last shards spread
            for slot in self._all.slots:
                number = slot.number
                if not slot.ready or loads[number] >= WINDOW or kept[number]:
                    continue
                if (taken := batch.shards.take(number, alone=loads[number] == 0)) is not None:
                    kept[number] = taken.losses > 0
                    loads[number] += 1
                    batch.asked[self._sent(slot, batch, taken)] = (slot, slot.life, taken)

    def _sent(self, slot: Slot, batch: _Batch, shard: Shard) -> Any:
        return slot.actor.run.options(concurrency_group="work").remote(batch.request(shard))

    def _take_in(self, batch: _Batch, reference: Any) -> None:
        slot, life, shard = batch.asked.pop(reference)
        ray = self._ray
        try:
            answer, fetched = ray.get(reference)
            if answer == STOPPED:
                raise SpftError("The batch was stopped on a worker.")
            decoded, counters = batch.decoded(shard.units, answer)
        except ray.exceptions.RayTaskError as error:
            raise SpftError(f"A worker of the cluster failed: {last_line(error.cause)}.") from None
        except (ray.exceptions.RayError, Nonsense):
            self._lost(slot, life)
            self._give_up(batch, shard, batch.shards.lose(shard))
            return
        if not batch.shards.finish(shard):
            return
        batch.finished.append((shard, decoded))
        batch.done += batch.queries(shard)
        with self._lock:
            self._fetched[slot.number, life] = fetched
            before = self._counters.get((slot.number, life), _none())
            # Two shards are at work on it, whose answers may overtake each other.
            newer = counters["queries"] >= before["queries"]
            if newer and slot.life == life:  # else it is counted among the lost
                self._counters[slot.number, life] = counters

    def _lost(self, slot: Slot, life: int) -> None:
        self._all.lose(slot, life)
        with self._lock:
            self._counts["shards_repeated"] += 1
            counters = self._counters.pop((slot.number, life), None)
            if counters is not None:  # its cache was lost with it
                left = counters | {"gold_entries": 0, "gold_bytes": 0}
                self._past = _sum([self._past, left])

    def _give_up(self, batch: _Batch, shard: Shard, places: list[int]) -> None:
        """Settles items whose workers were lost each time."""
        if not places:
            return
        message = f"every worker that was to run it was lost, {shard.losses + 1} times"
        digest = attached_module().query_digest
        units = [batch.units[place] for place in places]
        settled = [
            (digest(database, sql, batch.argument), int(Status.CRASHED), message)
            for database, *texts in units
            for sql in queries_of(texts)
        ]
        native = self._own._native
        if batch.kind == "verify":
            answer = native.verify(units, batch.argument, settled, None)
        elif batch.kind == "execute":
            answer, _ = native.execute(units, settled, None)
        else:
            answer = (int(Status.CRASHED), message, [], [])
        batch.finished.append((Shard(-1, places), answer))
        batch.done += batch.queries(shard)
        with self._lock:
            self._counts["items_given_up"] += len(places)


def _sources(units: Sequence[tuple[Any, ...]]) -> dict[bytes, tuple[bytes, bytes, Facts | None]]:
    sources = {}
    for path in dict.fromkeys(unit[0] for unit in units):
        absolute = os.path.abspath(path)
        sources[path] = (path, absolute, Facts.of(absolute))
    return sources


def _none() -> Columns:
    return dict.fromkeys(COUNTERS, 0) | {"statuses": [0] * len(Status)}


def _sum(counters: Sequence[Columns]) -> Columns:
    total: Columns = {name: sum(c[name] for c in counters) for name in COUNTERS}
    total["statuses"] = [sum(n) for n in zip(*(c["statuses"] for c in counters), strict=True)]
    return total
