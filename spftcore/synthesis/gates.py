"""What a filled query must pass before anything learns from it, each refusal with its cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import apsw

from spftcore.databases import Database, connect
from spftcore.verify.stability_clock import clock_readings
from spftcore.verify.stability_text import Structure, Unreadable

# SQLite steps of a query, about a tenth of a second: training runs each of them many times.
MOST_STEPS = 5_000_000


class ExecutedQuery(Protocol):
    """What synthesis reads of an execution (`spftcore.verify.Outcome`)."""

    @property
    def status(self) -> object: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def all_null(self) -> bool: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def ran(self) -> bool: ...


class StableQuery(Protocol):
    """What synthesis reads of a stability verdict (`spftcore.verify.Stability`)."""

    @property
    def verdict(self) -> bool | None: ...
    @property
    def cause(self) -> str: ...


class QueryExecutor(Protocol):
    """Runs batches of queries (`spftcore.verify.Executor`)."""

    def execute(self, queries: Sequence[tuple[Path, str]]) -> Sequence[ExecutedQuery]: ...
    def stable(self, queries: Sequence[tuple[Path, str]]) -> Sequence[StableQuery]: ...


def execution_cause(outcome: ExecutedQuery) -> str:
    """Why an execution is not fit for training, '' when it is."""
    if not outcome.ran:
        name = getattr(outcome.status, "name", str(outcome.status))
        costly = name in ("STEP_BUDGET", "TIME_BUDGET", "TOO_LARGE")
        return "too costly" if costly else "does not run"
    if outcome.steps > MOST_STEPS:
        return "too costly"
    if outcome.rows == 0:
        return "empty"
    return "all NULL" if outcome.all_null else ""


# Ties

_STRING = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_LIMITED = re.compile(r"order by (?:(?!order by|\bselect\b).)*?( limit \d+)")


def _masked(sql: str) -> str:
    """The query with the letters of its strings and quoted names blotted out."""
    return _STRING.sub(lambda match: "'" + "_" * (len(match.group()) - 2) + "'", sql)


def tie_variants(sql: str, columns: int) -> list[str]:
    """Two spellings of a query that break ties of ORDER BY … LIMIT in opposite ways.

    If both give the same rows, no tie decides what LIMIT keeps. The result columns serve as
    last ordering terms, ascending in the one and descending in the other: rows that agree in
    these too are the same row. Empty when the query has no ORDER BY with LIMIT.
    """
    masked = _masked(sql)
    variants = []
    for direction in ("", " desc"):
        text, shift = sql, 0
        for match in _LIMITED.finditer(masked):
            start = match.start(1)
            nested = masked.count("(", 0, match.start()) > masked.count(")", 0, match.start())
            terms = "".join(f", {n}{direction}" for n in range(1, 2 if nested else columns + 1))
            text = text[: start + shift] + terms + text[start + shift :]
            shift += len(terms)
        if shift:
            variants.append(text)
    return variants


# Other chances than ties: only few templates have any, so these are left to `Executor.stable`.


def hangs_on_more_than_ties(sql: str) -> bool:
    """Whether the order of rows, or the clock, may show in other ways than by ties at a LIMIT.

    True for windows, aggregates that join values, subqueries that may have several rows where one
    is used, OFFSET, LIMIT without ORDER BY or in a derived table, columns beside an aggregate
    without GROUP BY or inside an expression beside one, and the present date or time. Columns that
    stand by themselves beside GROUP BY are not looked at: filling chooses them so that each group
    has one value.
    """
    try:
        structure = Structure(sql)
    except (Unreadable, RecursionError):
        return True
    if structure.has_window() or structure.ordered_aggregates():
        return True
    if next(iter(clock_readings(structure)), None) is not None:
        return True
    for query in structure.queries:
        unordered = query.limit and not query.order
        several = query.role == "scalar" and not query.limit and not structure.one_row(query)
        # `tie_variants` breaks ties of an inner SELECT by its first column alone.
        inner = query.limit and query.role in ("table", "cte")
        if query.offset or unordered or several or inner:
            return True
        for core in query.cores:
            bare = structure.bare_columns(query, core)
            if bare and not ("GROUP" in core.clauses and structure.shows_bare(query)):
                return True
    return False


@lru_cache(maxsize=4096)
def collates(database: Database) -> bool:
    """Whether texts that differ may be equal in this database, so that any one may be shown."""
    connection = connect(database.path)
    try:
        texts = connection.execute("select lower(sql) from sqlite_master where sql is not null")
        return any("nocase" in str(text) or "rtrim" in str(text) for (text,) in texts.fetchall())
    except apsw.Error:
        return True
    finally:
        connection.close()


# Conditions that condition nothing

_PART = re.compile(
    r"[()]|\b(?:select|from|where|group by|having|window|order by|limit"
    r"|union all|union|intersect|except)\b"
)
_SET_OPERATIONS = frozenset(("union all", "union", "intersect", "except"))


def weaker_variants(sql: str) -> tuple[str, ...]:
    """The query without what narrows it; one with the result of such a variant says nothing.

    Without the WHERE and without the HAVING of the outermost SELECT; of two SELECTs in a set
    operation, each alone. A query without any of these has no variants.

    Args:
        sql: a query in the style of `normalise_sql`.
    """
    masked = _masked(sql)
    depth = 0
    marks: list[tuple[str, int]] = []
    for match in _PART.finditer(masked):
        word = match.group()
        if word in "()":
            depth += 1 if word == "(" else -1
        elif depth == 0:
            marks.append((word, match.start()))
    if not marks or marks[0] != ("select", 0):
        return ()  # a CTE
    operations = [(word, start) for word, start in marks if word in _SET_OPERATIONS]
    if operations:
        tail = any(word in ("order by", "limit") for word, _ in marks)
        if len(operations) > 1 or tail or operations[0][0] == "union all":
            return ()
        word, start = operations[0]
        alone = [sql[:start].rstrip()]
        if word != "except":
            alone.append(sql[start + len(word) :].lstrip())
        return tuple(alone)
    variants = []
    for number, (word, start) in enumerate(marks):
        if word in ("where", "having"):
            end = marks[number + 1][1] if number + 1 < len(marks) else len(sql)
            variants.append((sql[:start] + sql[end:]).strip())
    return tuple(variants)


_WORD = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[\w.]+|[^\w\s]")
_NUMBER = re.compile(r"\d+(\.\d+)?\Z")


def words(sql: str) -> list[str]:
    """Names, numbers, strings and signs of a query, in order."""
    return _WORD.findall(sql)


def literals(sql: str) -> tuple[str, ...]:
    """The strings and numbers of a query in order, written as `canonical` writes them."""
    found = []
    for token in _WORD.findall(sql):
        value = token[1:-1] if token[0] == "'" else token
        value = value.lstrip("+-") if _NUMBER.match(value.lstrip("+-")) else value
        if _NUMBER.match(value):
            value = value.rstrip("0").rstrip(".") if "." in value else value
            found.append(value)
        elif token[0] == "'":
            found.append(token)
    return tuple(sorted(found))
