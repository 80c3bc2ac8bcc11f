"""What the official evaluators decide, in plain Python over `sqlite3`, for comparison."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

Row = tuple[Any, ...]

# As the executor's default limits, which bound what it judges.
MOST_STEPS = 50_000_000
MOST_ROWS = 100_000

_OUTSIDE_QUOTES = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*)|\bdistinct\b""", re.IGNORECASE
)


class DidNotEnd(Exception):
    """More steps or rows than the executor allows: the reference decides nothing."""


@dataclass
class Database:
    """One file, its results remembered by text."""

    path: Path

    def __post_init__(self) -> None:
        self._connection = sqlite3.connect(f"file:{self.path}?mode=ro&immutable=1", uri=True)
        self._known: dict[tuple[str, bool], list[Row] | None] = {}

    def rows(self, sql: str, *, lenient: bool) -> list[Row] | None:
        """The rows of a query; None when it does not run.

        Args:
            lenient: text loses its invalid bytes, as in Spider's evaluator; else it is an error.
        """
        key = (sql, lenient)
        if key not in self._known:
            self._known[key] = self._run(sql, lenient)
        return self._known[key]

    def _run(self, sql: str, lenient: bool) -> list[Row] | None:
        calls = itertools.count()
        self._connection.set_progress_handler(lambda: next(calls) > MOST_STEPS // 1000, 1000)
        errors = "ignore" if lenient else "strict"
        self._connection.text_factory = lambda raw: raw.decode("utf-8", errors)
        try:
            cursor = self._connection.execute(sql)
            rows: list[Row] = cursor.fetchmany(MOST_ROWS + 1)
            if len(rows) > MOST_ROWS:
                raise DidNotEnd
            return rows if cursor.description else None
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise DidNotEnd from None
            return None
        except (sqlite3.Error, sqlite3.Warning, UnicodeDecodeError):
            return None

    def close(self) -> None:
        self._connection.close()


class SameSqlite(Database):
    """The same with the SQLite that the executor has: another version may give rows in another
    order, on which LIMIT and soft F1 hang."""

    def _run(self, sql: str, lenient: bool) -> list[Row] | None:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"file:{self.path}?mode=ro&immutable=1", flags=flags)
        try:
            return connection.execute(sql).fetchall()
        except apsw.Error:
            return None
        finally:
            connection.close()


def spider(database: Database, gold: str, answer: str) -> bool | None:
    """Execution match of the test-suite evaluator on one database; None when the gold fails."""
    gold, answer = _prepared(gold), _prepared(answer)
    expected = database.rows(gold, lenient=True)
    if expected is None:
        return None
    given = database.rows(answer, lenient=True)
    if given is None:
        return False
    if not expected and not given:
        return True
    if len(expected) != len(given) or len(expected[0]) != len(given[0]):
        return False
    ordered = "order by" in gold.lower()
    return any(
        rows == expected if ordered else Counter(rows) == Counter(expected)
        for rows in _with_columns_moved(expected, given)
    )


def _prepared(sql: str) -> str:
    for apart in ("> =", "< =", "! ="):
        sql = sql.replace(apart, apart.replace(" ", ""))
    return _OUTSIDE_QUOTES.sub(lambda found: found.group(1) or "", sql)


def _with_columns_moved(expected: list[Row], given: list[Row]) -> Iterator[list[Row]]:
    """Orders of the given columns in which each holds what the expected one holds."""
    wanted = [Counter(column) for column in zip(*expected, strict=True)]
    there = [Counter(column) for column in zip(*given, strict=True)]
    fitting = [[k for k, bag in enumerate(there) if bag == one] for one in wanted]
    for order in itertools.product(*fitting):
        if len(set(order)) == len(order):
            yield [tuple(row[k] for k in order) for row in given]


def bird(database: Database, gold: str, answer: str) -> bool | None:
    """BIRD's EX; None when the gold fails."""
    expected = database.rows(gold, lenient=False)
    if expected is None:
        return None
    given = database.rows(answer, lenient=False)
    return given is not None and set(expected) == set(given)


def soft_f1_of_rows(expected: list[tuple[Any, ...]], given: list[tuple[Any, ...]]) -> float:
    """BIRD mini-dev's soft F1 of two results, each a list of rows."""
    if not expected and not given:
        return 1.0
    tp = fp = fn = 0.0
    pairs = itertools.zip_longest(dict.fromkeys(given), dict.fromkeys(expected))
    for got, want in pairs:
        if want is None:
            fp += 1
        elif got is None:
            fn += 1
        else:
            tp += sum(value in want for value in got) / len(want)
            fp += sum(value not in want for value in got) / len(want)
            fn += sum(value not in got for value in want) / len(want)
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def soft_f1(database: Database, gold: str, answer: str) -> float | None:
    """BIRD mini-dev's soft F1; None when the gold fails."""
    expected = database.rows(gold, lenient=False)
    if expected is None:
        return None
    given = database.rows(answer, lenient=False)
    if given is None:
        return 0.0
    return soft_f1_of_rows(expected, given)
