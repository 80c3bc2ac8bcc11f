"""A pool of C++ threads that runs and judges SQL in batches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal

from spftcore.errors import SpftError, UsageError
from spftcore.verify.native import attached_module
from spftcore.verify.outcomes import DEFAULT_LIMITS, Judgement, Limits, Outcome, Status, Verdict

_STATUSES = tuple(Status)
_VERDICTS = tuple(Verdict)

# By the numbers of `Reason` in csrc/types.h.
_REASONS = (
    "same result",
    "gold did not run: {gold.message}",
    "candidate undecided: {candidate.message}",
    "candidate did not run: {candidate.message}",
    "number of columns differs: {candidate.columns}, gold {gold.columns}",
    "number of rows differs: {candidate.rows}, gold {gold.rows}",
    "rows differ",
    "order of rows differs",
)
_PLAIN_REASONS = frozenset((0, 6, 7))


def _outcome(fields: tuple[Any, ...]) -> Outcome:
    return Outcome(_STATUSES[fields[0]], *fields[1:])


class Executor:
    """Runs and judges SQL in batches on a fixed pool of threads; a context manager.

    A batch never fails because of a query or a database file: each query has its own outcome.
    Within a batch, the same text on the same database runs once. Results of golds are kept across
    batches. Ctrl-C stops a batch and leaves the executor usable. One executor per process: after a
    fork, create a new one.

    Args:
        threads: size of the pool; 0 for one per core this process may use.
        limits: bounds on each query.
        connections_per_thread: open databases each thread keeps.
        gold_cache_bytes: memory for results of golds across batches; 0 keeps none.

    Raises:
        SpftError: the C++ module or apsw is missing.
        UsageError: an argument is out of range.
    """

    def __init__(
        self,
        threads: int = 0,
        limits: Limits = DEFAULT_LIMITS,
        connections_per_thread: int = 16,
        gold_cache_bytes: int = 64 << 20,
    ) -> None:
        if threads < 0 or threads > 1024:
            raise UsageError(f"threads must be between 0 and 1024, not {threads}.")
        if connections_per_thread < 1:
            raise UsageError(
                f"connections_per_thread must be at least 1, not {connections_per_thread}."
            )
        if gold_cache_bytes < 0:
            raise UsageError(f"gold_cache_bytes must not be negative, not {gold_cache_bytes}.")
        module = attached_module()
        self.limits = limits
        self._process = os.getpid()
        self._native: Any = module.Executor(
            threads=threads or _usable_cores(),
            steps=limits.steps,
            seconds=limits.seconds,
            rows=limits.rows,
            bytes=limits.bytes,
            value_bytes=limits.value_bytes,
            sql_bytes=limits.sql_bytes,
            temp_bytes=limits.temp_bytes,
            connections_per_thread=connections_per_thread,
            gold_cache_bytes=gold_cache_bytes,
        )

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

    def execute(self, queries: Sequence[tuple[str | Path, str]]) -> list[Outcome]:
        """Runs each (database file, SQL) and returns its outcome, in the order given.

        Raises:
            KeyboardInterrupt: Ctrl-C; the batch is stopped, the executor stays usable.
        """
        raw, of_query = self._usable().execute(queries)
        outcomes = [_outcome(fields) for fields in raw]
        return [outcomes[i] for i in of_query]

    def verify(
        self,
        items: Sequence[tuple[str | Path, str, Sequence[str]]],
        compare: Literal["bag"] = "bag",
    ) -> list[list[Judgement]]:
        """Judges each candidate of each (database file, gold SQL, candidates).

        Args:
            items: what to judge; candidates of one item may repeat.
            compare: `bag`: rows as a multiset, columns by position; where the gold's outermost
                query has ORDER BY, order counts between rows that differ in its sort keys.

        Returns:
            One list per item, one judgement per candidate. A gold that does not run, and a
            candidate stopped by the clock or by its database, are UNJUDGED.

        Raises:
            KeyboardInterrupt: Ctrl-C; the batch is stopped, the executor stays usable.
        """
        if compare != "bag":
            raise UsageError(f"Unknown comparison {compare!r}; the one there is is 'bag'.")
        raw, judged = self._usable().verify(items)
        outcomes = [_outcome(fields) for fields in raw]
        results = []
        for gold_index, row in judged:
            gold = outcomes[gold_index]
            judgements = []
            for verdict, reason, both_empty, index in row:
                candidate = outcomes[index]
                text = _REASONS[reason]
                if reason not in _PLAIN_REASONS:
                    text = text.format(gold=gold, candidate=candidate)
                judgements.append(Judgement(_VERDICTS[verdict], candidate, gold, both_empty, text))
            results.append(judgements)
        return results

    def rows(self, database: str | Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of one query under the same limits, for showing them.

        Raises:
            SpftError: the query does not run; the message says why.
        """
        fields, names, rows = self._usable().rows(database, sql)
        outcome = _outcome(fields)
        if not outcome.ran:
            raise SpftError(f"The query did not run ({outcome.status.name}): {outcome.message}")
        return names, rows

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
        """Ends the threads and closes the databases; calling it twice is harmless."""
        self._native = None

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


def _usable_cores() -> int:
    """Cores this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
