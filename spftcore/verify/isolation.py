"""Batches in worker processes: a crash inside SQLite, or a query that hangs in one step, ends a
worker and nothing else.

Each worker has a keeper, a thread of this process that sends it chunks, watches its clock, and
replaces it when it dies. Batches of several callers share the workers, the oldest batch first.
`docs/isolation.md` says what is caught and what it costs.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from spftcore.errors import SpftError
from spftcore.verify.answers import COUNTERS, Columns, Nonsense
from spftcore.verify.isolation_batches import (
    Batch,
    Chunk,
    Kind,
    Poll,
    Pool,
    Preset,
)
from spftcore.verify.isolation_process import Death, Stopped, WorkerProcess
from spftcore.verify.native import attached_module
from spftcore.verify.outcomes import Status

_POLL_SECONDS = 0.04
_START_ATTEMPTS = 2


class ProcessPool(Pool):
    """Worker processes with the methods of the C++ executor.

    Args:
        workers: how many.
        memory_bytes: what a worker may use above what it uses at rest.
        arguments: keyword arguments of the C++ executor, less `threads`.

    Raises:
        SpftError: the system is not Linux, or no worker starts.
    """

    def __init__(self, workers: int, memory_bytes: int, arguments: Mapping[str, Any]) -> None:
        if sys.platform != "linux":
            raise SpftError(
                f'isolation="process" relies on Linux, and this is {sys.platform}. Use '
                'isolation="thread", or run in a container.'
            )
        settings = {
            "executor": dict(arguments),
            "bytes": memory_bytes + int(arguments["gold_cache_bytes"]),
        }
        self._keepers = _Keepers(workers, settings, float(arguments["seconds"]))
        # Also at interpreter exit; the keepers hold no reference to this object.
        self._closing = weakref.finalize(self, self._keepers.close)
        self._keepers.wait_started()

    @property
    def threads(self) -> int:
        return self._keepers.workers

    @property
    def processes(self) -> list[WorkerProcess]:
        """The workers that are alive now."""
        return self._keepers.processes()

    def counters(self) -> dict[str, Any]:
        """Those of all workers, also of the dead."""
        return self._keepers.counters()

    def close(self) -> None:
        """Kills the workers."""
        self._closing()

    def _count_duplicates(self, repeats: int) -> None:
        self._keepers.count_duplicates(repeats)

    def _run(
        self,
        kind: Kind,
        argument: int,
        units: Sequence[tuple[Any, ...]],
        presets: Sequence[Preset],
        poll: Poll | None,
    ) -> Batch:
        digest = attached_module().query_digest
        batch = Batch(kind, argument, units, presets, self._keepers.workers, digest)
        self._keepers.run(batch, poll)
        return batch


class _Keepers:
    """The threads that keep the workers, and what they share."""

    def __init__(self, workers: int, settings: dict[str, Any], seconds: float) -> None:
        self.workers = workers
        self._settings = settings
        self._seconds = seconds
        self._process = os.getpid()
        self._changed = threading.Condition()  # guards all below
        self._batches: list[Batch] = []
        self._closing = False
        self._failure: SpftError | None = None
        self._alive: dict[int, WorkerProcess] = {}
        self._under_way: dict[int, Batch] = {}
        self._counters: dict[int, Columns] = {}
        self._past: Columns = dict.fromkeys(COUNTERS, 0) | {"statuses": [0] * len(Status)}
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def wait_started(self) -> None:
        """Waits for the first worker."""
        with self._changed:
            self._changed.wait_for(lambda: self._alive or self._failure)
            if self._failure is not None:
                raise self._failure

    def processes(self) -> list[WorkerProcess]:
        with self._changed:
            return list(self._alive.values())

    def run(self, batch: Batch, poll: Poll | None) -> None:
        """Has a batch run and waits for it, asking `poll` now and then."""
        with self._changed:
            if self._failure is not None:
                raise self._failure
            self._batches.append(batch)
            self._changed.notify_all()
        try:
            while not batch.over.wait(_POLL_SECONDS):
                if poll is not None:
                    poll(*self._progress(batch))
        finally:
            with self._changed:
                batch.cancelled = True  # what still runs of it is not wanted any more
                batch.over.set()
                self._batches.remove(batch)
        if batch.error is not None:
            raise batch.error

    def count_duplicates(self, number: int) -> None:
        with self._changed:
            self._past["queries"] += number
            self._past["duplicates"] += number

    def counters(self) -> Columns:
        with self._changed:
            return _sum([self._past, *self._counters.values()])

    def close(self) -> None:
        if os.getpid() != self._process:  # a forked child has neither the threads nor the workers
            return
        with self._changed:
            self._closing = True
            for process in self._alive.values():
                process.kill()
            for batch in self._batches:
                batch.error = batch.error or SpftError("The executor was closed during a batch.")
                batch.over.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _progress(self, batch: Batch) -> tuple[int, int]:
        with self._changed:
            return batch.progress(
                sum(self._alive[n].done for n, b in self._under_way.items() if b is batch)
            )

    def _keep(self, number: int) -> None:
        """The life of one keeper."""
        try:
            while (process := self._start(number)) is not None:
                try:
                    while self._serve(number, process):
                        pass
                finally:
                    self._let_go(number)
                    process.end()
        except BaseException as error:
            self._fail(
                SpftError(f"A worker process cannot be kept: {error!r}. Create a new executor.")
            )

    def _start(self, number: int) -> WorkerProcess | None:
        """A worker that is ready; None when the pool is closing or broken."""
        words = ""
        for _ in range(_START_ATTEMPTS):
            if self._ending():
                return None
            try:
                process = WorkerProcess(self._settings, self._seconds)
            except OSError as error:
                words = str(error)
                continue
            try:
                process.wait_ready(self._ending)
            except Stopped:
                return None
            except Death as death:
                words = death.log or death.message
                continue
            with self._changed:
                if self._closing:
                    process.end()
                    return None
                self._alive[number] = process
                self._changed.notify_all()
            return process
        last = words.strip().splitlines()[-1] if words.strip() else "no word"
        self._fail(
            SpftError(
                f"A worker process did not start twice ({last}). Check "
                f'that {sys.executable} can import spftcore, or use isolation="thread".'
            )
        )
        return None

    def _serve(self, number: int, process: WorkerProcess) -> bool:
        """Waits for a chunk and has it run; False when the worker is no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._failure or self._open())
            batch = self._open()
            if self._closing or self._failure or batch is None or process.ended:
                return False
            chunk = batch.take(number)
            self._under_way[number] = batch
        request = pickle.dumps(batch.request(chunk))
        largest = batch.largest_answer(request, chunk)
        try:
            answer = process.ask(request, largest, chunk.queries, lambda: batch.cancelled)
            decoded, counters = batch.decode(chunk, answer)
        except Stopped:
            return not process.ended
        except Nonsense as error:
            death = Death(f"answered nonsense ({error})", None, Status.CRASHED, "")
            self._bury(batch, chunk, death)
            return False
        except Death as death:
            self._bury(batch, chunk, death)
            return False
        finally:
            with self._changed:
                self._under_way.pop(number, None)
        with self._changed:
            self._counters[number] = counters
            batch.finish(chunk, decoded)
        return True

    def _bury(self, batch: Batch, chunk: Chunk, death: Death) -> None:
        with self._changed:
            if death.query is not None:  # it ran, and the dead cannot count it
                self._past["executed"] += 1
                self._past["statuses"][death.status] += 1
            batch.bury(chunk, death)
            self._changed.notify_all()

    def _let_go(self, number: int) -> None:
        with self._changed:
            self._alive.pop(number, None)
            counters = self._counters.pop(number, None)
            if counters is not None:  # its cache died with it
                self._past = _sum([self._past, counters | {"gold_entries": 0, "gold_bytes": 0}])

    def _open(self) -> Batch | None:
        return next((batch for batch in self._batches if batch.open), None)

    def _ending(self) -> bool:
        return self._closing or self._failure is not None

    def _fail(self, failure: SpftError) -> None:
        with self._changed:
            self._failure = self._failure or failure
            for batch in self._batches:
                batch.error = self._failure
                batch.over.set()
            self._changed.notify_all()


def _sum(all_counters: Sequence[Columns]) -> Columns:
    total: Columns = {name: sum(c[name] for c in all_counters) for name in COUNTERS}
    total["statuses"] = [sum(n) for n in zip(*(c["statuses"] for c in all_counters), strict=True)]
    return total
