"""A pool of C++ threads that runs and judges SQL in batches."""

from __future__ import annotations

import itertools
import os
import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

from spftcore.errors import SpftError, UsageError
from spftcore.verify.native import attached_module
from spftcore.verify.outcomes import DEFAULT_LIMITS, Fetched, Judgement, Limits, Status
from spftcore.verify.results import Outcomes, Verdicts

if TYPE_CHECKING:
    from spftcore.verify.stability import Stability

Item = tuple[str | Path, str, Sequence[str]]
Compare = Literal["bag", "spider", "bird", "soft_f1"]
Isolation = Literal["thread", "process"]
# Called about 25 times a second with the distinct queries done and to do.
Progress = Callable[[int, int], None]

# Three years: as good as no limit, and still a number of nanoseconds.
_NEVER_SECONDS = 1e8

# By the numbers of `Compare` in csrc/types.h.
_COMPARISONS = ("bag", "spider", "bird", "soft_f1")

# Of a worker process: four times what `Limits.temp_bytes` lets a sort keep in memory.
_WORKER_MEMORY_BYTES = 1 << 30
_LEAST_WORKER_MEMORY_BYTES = 64 << 20


class Executor:
    """Runs and judges SQL in batches on a fixed pool of threads; a context manager.

    A batch never fails because of a query or a database file: each query has its own outcome.
    Within a batch, the same text on the same database runs once. Results of golds are kept across
    batches. Ctrl-C stops a batch and leaves the executor usable. One executor per process: after a
    fork, create a new one.

    Args:
        threads: size of the pool; 0 for one per core this process may use.
        limits: bounds on each query.
        connections_per_thread: open databases each thread keeps, fewer where the process may not
            hold so many files open.
        gold_cache_bytes: memory for results of golds across batches; 0 keeps none.
        families: folder with the test suites, `<database id>/*.sqlite`, for `on="family"`.
        isolation: `thread` runs queries in this process; `process` in as many worker processes,
            which survives a crash inside SQLite, kills a query that hangs inside one step, and
            bounds memory (`docs/isolation.md`).
        memory_bytes: of each worker process above what it uses at rest, 1 GiB if None.

    Raises:
        SpftError: the C++ module or apsw is missing, or no worker process starts.
        UsageError: an argument is out of range.
    """

    def __init__(
        self,
        threads: int = 0,
        limits: Limits = DEFAULT_LIMITS,
        connections_per_thread: int = 16,
        gold_cache_bytes: int = 64 << 20,
        families: str | Path | None = None,
        isolation: Isolation = "thread",
        memory_bytes: int | None = None,
    ) -> None:
        if threads < 0 or threads > 1024:
            raise UsageError(f"threads must be between 0 and 1024, not {threads}.")
        if connections_per_thread < 1:
            raise UsageError(
                f"connections_per_thread must be at least 1, not {connections_per_thread}."
            )
        if gold_cache_bytes < 0:
            raise UsageError(f"gold_cache_bytes must not be negative, not {gold_cache_bytes}.")
        if isolation not in ("thread", "process"):
            raise UsageError(f"Unknown isolation {isolation!r}; there are thread, process.")
        if memory_bytes is not None and isolation == "thread":
            raise UsageError(
                "memory_bytes bounds worker processes, and this executor would run its queries in "
                'threads of your own process. Add isolation="process", or leave it out.'
            )
        if memory_bytes is not None and memory_bytes < _LEAST_WORKER_MEMORY_BYTES:
            raise UsageError(
                f"memory_bytes must be at least {_LEAST_WORKER_MEMORY_BYTES} (64 MiB), which the "
                f"page caches of its open databases may need, not {memory_bytes}."
            )
        module = attached_module()
        self.limits = limits
        self._process = os.getpid()
        self._families = None if families is None else Path(families)
        workers = threads or _usable_cores()
        arguments: dict[str, Any] = {
            "steps": limits.steps,
            "seconds": min(limits.seconds, _NEVER_SECONDS),
            "rows": limits.rows,
            "bytes": limits.bytes,
            "value_bytes": limits.value_bytes,
            "sql_bytes": limits.sql_bytes,
            "temp_bytes": limits.temp_bytes,
            "connections_per_thread": _within_file_handles(connections_per_thread, workers),
            "gold_cache_bytes": gold_cache_bytes,
        }
        self._native: Any
        if isolation == "process":
            from spftcore.verify.isolation import ProcessPool  # not needed by most

            memory = _WORKER_MEMORY_BYTES if memory_bytes is None else memory_bytes
            self._native = ProcessPool(workers, memory, arguments)
        else:
            self._native = module.Executor(threads=workers, **arguments)

    def _usable(self) -> Any:
        if self._native is None:
            raise SpftError("This executor is closed. Create a new one.")
        if os.getpid() != self._process:
            raise SpftError(
                "This executor belongs to the process that created it; SQLite connections and "
                "threads do not survive a fork. Create an executor in each process."
            )
        return self._native

    @property
    def threads(self) -> int:
        """Size of the pool."""
        return int(self._usable().threads)

    def execute(
        self,
        queries: Sequence[tuple[str | Path, str]],
        *,
        progress: Progress | None = None,
    ) -> Outcomes:
        """Runs each (database file, SQL) and returns its outcome, in the order given.

        Args:
            queries: what to run.
            progress: called now and then; what it raises stops the batch.

        Raises:
            KeyboardInterrupt: Ctrl-C; the batch is stopped, the executor stays usable.
        """
        distinct, of_query = self._usable().execute(queries, (), progress)
        return Outcomes(distinct, of_query)

    def verify(
        self,
        items: Iterable[Item],
        compare: Compare = "bag",
        *,
        on: Literal["file", "family"] = "file",
        progress: Progress | None = None,
    ) -> Verdicts:
        """Judges each candidate of each (database file, gold SQL, candidates).

        Args:
            items: what to judge; candidates of one item may repeat.
            compare: `bag` (rows as a multiset, order where the gold asks for one), or what the
                official evaluators decide: `spider` (columns in any order), `bird` (rows as a set),
                `soft_f1` (BIRD's F1 over cells). `docs/comparison.md` states the rules.
            on: `file` alone, or the file and its `family` of variants: right only where right on
                all of them.
            progress: called now and then; what it raises stops the batch.

        Returns:
            One list per item, one judgement per candidate. A gold that does not run, and a
            candidate stopped by the clock or by its database, are UNJUDGED.

        Raises:
            UsageError: an unknown comparison, or `on="family"` without `families`.
            KeyboardInterrupt: Ctrl-C; the batch is stopped, the executor stays usable.
        """
        if compare not in _COMPARISONS:
            raise UsageError(
                f"Unknown comparison {compare!r}; there are {', '.join(_COMPARISONS)}."
            )
        items = list(items)
        if on == "family":
            databases = [self._family(database, gold) for database, gold, _ in items]
        else:
            databases = [(database,) for database, _, _ in items]
        asked: Sequence[Item] = items
        if on == "family":
            asked = [
                (member, gold, candidates)
                for members, (_, gold, candidates) in zip(databases, items, strict=True)
                for member in members
            ]
        columns = self._usable().verify(asked, _COMPARISONS.index(compare), (), progress)
        return Verdicts(columns, databases)

    def _family(self, database: str | Path, gold: str) -> Sequence[str | Path]:
        """The file, first, and its variants on which this gold's result is no chance."""
        if self._families is None:
            raise UsageError(
                'on="family" needs the folder of the families: Executor(families=DIR). '
                "`python -m spftcore.verify.families` makes one."
            )
        from spftcore.verify.families import family_of  # it is built on this module

        return (database, *family_of(self._families, Path(os.fspath(database)), gold))

    def stream(
        self,
        items: Iterable[Item],
        compare: Compare = "bag",
        *,
        on: Literal["file", "family"] = "file",
        chunk: int = 4096,
    ) -> Iterator[list[Judgement]]:
        """Judges more items than fit in memory, one list of judgements each, in order.

        Two chunks are in the pool at a time, so that the last slow query of one does not idle the
        threads, and a third is being handed out. Closing the iterator stops what is under way.

        Args:
            items: read as they are needed.
            compare, on: as for `verify`.
            chunk: items in one batch.

        Raises:
            UsageError: as for `verify`, or `chunk` is below 1.
        """
        if chunk < 1:
            raise UsageError(f"chunk must be at least 1, not {chunk}.")
        self.verify((), compare, on=on)  # complains now, not at the first item
        return self._stream(iter(items), compare, on, chunk)

    def _stream(
        self, source: Iterator[Item], compare: Compare, on: Literal["file", "family"], chunk: int
    ) -> Iterator[list[Judgement]]:
        stopped = False

        def go_on(done: int, total: int) -> None:
            if stopped:
                raise SpftError("The stream was closed.")

        pool = ThreadPoolExecutor(2)
        under_way: deque[Future[Verdicts]] = deque()

        def refill() -> None:
            while len(under_way) < 2 and (batch := list(itertools.islice(source, chunk))):
                under_way.append(pool.submit(self.verify, batch, compare, on=on, progress=go_on))

        try:
            refill()
            while under_way:
                judged = under_way.popleft().result()
                refill()
                yield from judged
        finally:
            stopped = True
            pool.shutdown(cancel_futures=True)

    def stable(self, queries: Sequence[tuple[str | Path, str]]) -> list[Stability]:
        """Tells for each query whether its result is determined by the data (`docs/stability.md`).

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        from spftcore.verify.stability import stable  # it is built on this module

        return stable(self, queries)

    def rows(self, database: str | Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of one query under the same limits, for showing them.

        Raises:
            SpftError: the query does not run; the message says why.
        """
        found = self.fetch(database, sql)
        if not found.ran:
            raise SpftError(f"The query did not run ({found.status.name}): {found.message}")
        return found.columns, found.rows

    def fetch(self, database: str | Path, sql: str) -> Fetched:
        """One query with its rows, however it ends.

        Raises:
            KeyboardInterrupt: Ctrl-C; the query is stopped, the executor stays usable.
        """
        status, message, names, rows = self._usable().rows(database, sql)
        return Fetched(Status(status), message, names, rows)

    @property
    def counters(self) -> Mapping[str, int]:
        """What was done so far: queries asked, executed, answered by a duplicate or from the cache.

        Keys: `queries`, `executed`, `duplicates`, `gold_hits`, `gold_misses`, `gold_entries`,
        `gold_bytes`, `connections_opened`, `connections_reused`, and `status_<name>` for each
        status, counting executions.
        """
        raw = dict(self._usable().counters())
        statuses = raw.pop("statuses")
        for status, number in zip(Status, statuses, strict=True):
            raw[f"status_{status.name.lower()}"] = number
        return MappingProxyType(raw)

    def close(self) -> None:
        """Ends the threads or processes and closes the databases; harmless when repeated."""
        native, self._native = self._native, None
        if hasattr(native, "close"):  # worker processes; threads end with their object
            native.close()

    def __enter__(self) -> Executor:
        self._usable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _within_file_handles(connections: int, threads: int) -> int:
    """Connections per thread for which there are file handles, with some left for the caller."""
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if handles == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, (handles - handles // 4) // threads))


def _usable_cores() -> int:
    """Cores this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
