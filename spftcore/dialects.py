"""Queries written for other databases, put into SQLite's SQL where that is certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import sqlglot
from sqlglot.errors import ErrorLevel

# As widespread in public text-to-SQL pairs; the first that reads a query gives it its name.
DIALECTS = ("postgres", "mysql", "tsql", "bigquery", "snowflake", "oracle")


class Ran(Protocol):
    """What is read of an execution (`spftcore.verify.Outcome`)."""

    @property
    def ran(self) -> bool: ...
    @property
    def rows(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...


class QueryExecutor(Protocol):
    """Runs batches of queries (`spftcore.verify.Executor`)."""

    def execute(self, queries: Sequence[tuple[Path, str]]) -> Sequence[Ran]: ...


@dataclass(frozen=True)
class Reading:
    """A query as SQLite says it, and the dialect it was read in."""

    sql: str
    dialect: str


def readings(sql: str) -> list[Reading]:
    """What a query means in other dialects, as SQLite text: one for each different text.

    A dialect that cannot read all of the query, or whose meaning SQLite has no words for, gives
    none.
    """
    found: dict[str, Reading] = {}
    for dialect in DIALECTS:
        try:
            trees = sqlglot.parse(sql, read=dialect)
            if len(trees) != 1 or trees[0] is None:
                continue
            text = trees[0].sql(dialect="sqlite", unsupported_level=ErrorLevel.RAISE)
        except Exception:  # the text is anybody's, and a parser may end in any way on it
            continue
        found.setdefault(text, Reading(text, dialect))
    return [reading for text, reading in found.items() if text != sql]


def in_sqlite(queries: Sequence[tuple[Path, str]], executor: QueryExecutor) -> list[Reading | None]:
    """Each query in SQLite's words, or None where there are none or dialects disagree.

    Args:
        queries: (database file, SQL) of queries that SQLite does not understand.

    Returns:
        The first reading that runs, if all readings that run return the same result: the same
        text may mean another thing in another dialect (`/` divides whole numbers in Postgres,
        not in MySQL). Of several that run, results without rows agree on nothing.
    """
    candidates = [readings(sql) for _, sql in queries]
    jobs = [
        (path, reading.sql)
        for (path, _), found in zip(queries, candidates, strict=True)
        for reading in found
    ]
    outcomes = iter(executor.execute(jobs) if jobs else [])
    answers: list[Reading | None] = []
    for found in candidates:
        ran = [
            (reading, outcome)
            for reading, outcome in zip(found, [next(outcomes) for _ in found], strict=True)
            if outcome.ran
        ]
        agreed = len({outcome.fingerprint for _, outcome in ran}) == 1
        if len(ran) > 1 and not ran[0][1].rows:
            agreed = False
        answers.append(ran[0][0] if agreed else None)
    return answers
