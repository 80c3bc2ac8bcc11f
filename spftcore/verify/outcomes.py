"""What a caller gives and gets: limits, statuses, outcomes, verdicts."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Any

from spftcore.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one query. Which one ends a query decides the status it gets.

    Attributes:
        steps: SQLite virtual-machine steps, the main bound: the same query on the same data ends
            the same way on any machine. 50 million take about a second.
        seconds: wall-clock, the back-stop. A pair stopped by it stays unjudged.
        rows: rows of the result.
        bytes: bytes of all values of the result; a number counts 8.
        value_bytes: bytes of any one value or table row, also in between. It bounds what a single
            step can cost, which the other bounds cannot see.
        sql_bytes: bytes of the SQL text.
        temp_bytes: temporary storage of sorts and materialised sub-queries, held in memory.
    """

    steps: int = 50_000_000
    seconds: float = 10.0
    rows: int = 100_000
    bytes: int = 64 << 20
    value_bytes: int = 1_000_000
    sql_bytes: int = 20_000
    temp_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name != "seconds" and not (isinstance(value, int) and value < 1 << 63):
                raise UsageError(f"Limits.{name} must be a whole number below 2^63, not {value!r}.")
            if not (value > 0 or (name == "temp_bytes" and value == 0)):
                raise UsageError(f"Limits.{name} must be above 0, not {value}.")


DEFAULT_LIMITS = Limits()


class Status(enum.IntEnum):
    """How an execution ended."""

    OK = 0  # ran, at least one row
    EMPTY = 1  # ran, no row
    SYNTAX_ERROR = 2
    MISSING_NAME = 3  # no such table, column, function or collation
    SQL_ERROR = 4  # any other error SQLite reports on the query
    DENIED = 5  # refused by the sandbox
    STEP_BUDGET = 6
    TIME_BUDGET = 7
    TOO_LARGE = 8  # rows, bytes, a value, the text or temporary storage over its limit
    DATABASE_ERROR = 9  # the file is missing, not a database, corrupt, or has a log beside it
    CRASHED = 10  # the process that ran it died; only under isolation="process"


class Verdict(enum.IntEnum):
    """What is known about a candidate. UNJUDGED says nothing against it: never train on it."""

    WRONG = 0
    RIGHT = 1
    UNJUDGED = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """One execution.

    Attributes:
        status: how it ended.
        message: SQLite's message or ours; empty when the query ran.
        rows, columns: the size of the result; 0 when the query did not run.
        steps: virtual-machine steps taken.
        seconds: wall-clock from compiling to the last row.
        fingerprint: 32 hexadecimal digits naming the bag of rows (columns by position) under the
            equality of the `bag` comparison; equal between runs and machines; '' when it did not
            run.
        all_null: at least one row, and nothing but NULL in all of them.
    """

    status: Status
    message: str
    rows: int
    columns: int
    steps: int
    seconds: float
    fingerprint: str
    all_null: bool

    @property
    def ran(self) -> bool:
        """True when the query ended by itself, with rows or without."""
        return self.status <= Status.EMPTY


@dataclass(frozen=True, slots=True)
class Fetched:
    """One execution with its rows.

    Attributes:
        status, message: as of an `Outcome`.
        columns: names.
        rows: values as Python has them: None, int, float, str (what is not UTF-8 replaced), bytes.
    """

    status: Status
    message: str
    columns: list[str]
    rows: list[tuple[Any, ...]]

    @property
    def ran(self) -> bool:
        """True when the query ended by itself, with rows or without."""
        return self.status <= Status.EMPTY


@dataclass(frozen=True, slots=True)
class Judgement:
    """A candidate against its gold.

    Attributes:
        verdict: right, wrong or unjudged.
        candidate, gold: the two executions.
        both_empty: both ran and neither gave a row: weak evidence, whatever the verdict.
        reason: one phrase.
        score: 1 when right, 0 when wrong or unjudged; under `soft_f1` the F1 in [0, 1].
        database: the file it was judged on; of a family, the one that decided.
    """

    verdict: Verdict
    candidate: Outcome
    gold: Outcome
    both_empty: bool
    reason: str
    score: float
    database: str
