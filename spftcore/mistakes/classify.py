"""The classes of one wrong answer from the texts of the two queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlglot import exp

from spftcore.databases import Database
from spftcore.mistakes.classes import rank
from spftcore.mistakes.differences import Difference, differences
from spftcore.mistakes.failures import failure
from spftcore.mistakes.parts import Columns
from spftcore.mistakes.shape import Reader

OTHER = "other"


@dataclass(frozen=True)
class Reading:
    """Two queries read against the schema, and how they differ.

    Attributes:
        gold, answer: the trees in the one style, where the same name means the same thing.
        found: (class, clause) of every difference.
    """

    gold: exp.Query
    answer: exp.Query
    found: tuple[Difference, ...]


def read(gold_sql: str, answer_sql: str, database: Database) -> Reading | None:
    """Reads and compares two queries; None where one cannot be read against the schema."""
    try:
        return compare_queries(gold_sql, answer_sql, database)
    except Exception:  # models write what no parser has been tried on, and a count must not end
        return None


def compare_queries(gold_sql: str, answer_sql: str, database: Database) -> Reading:
    """`read`, with an exception (of `sql_text.UNREADABLE`) where a query cannot be read."""
    gold, answer = Reader(gold_sql, database), Reader(answer_sql, database)
    found = min(
        (_differences(gold, answer, numbering) for numbering in answer.numberings()), key=len
    )
    return Reading(gold.tree, answer.tree, tuple(found))


def _differences(gold: Reader, answer: Reader, numbering: Mapping[str, str]) -> list[Difference]:
    columns = Columns()
    for one, other in gold.links({}) + answer.links(numbering):
        columns.link(one, other)
    return differences(gold.shape(columns, {}), answer.shape(columns, numbering))


def classify(
    gold_sql: str,
    answer_sql: str,
    database: Database,
    *,
    status: str = "",
    message: str = "",
    proved: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Classes of mistake of a wrong answer, the most telling first; never empty.

    Args:
        gold_sql, answer_sql: the queries.
        database: the schema behind their names.
        status, message: how the answer's execution ended; empty where it is not known.
        proved: what the results prove (`rows.result_mistakes`).
    """
    why = failure(answer_sql, status, message)
    reading = None if why else read(gold_sql, answer_sql, database)
    return ordered_classes(reading, why, proved)


def ordered_classes(
    reading: Reading | None,
    why: str,
    proved: tuple[str, ...] = (),
    telling: frozenset[str] = frozenset(),
    harmless: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """Puts together what is known of one answer.

    Args:
        reading: the comparison of the queries.
        why: class of an answer that did not run.
        proved: what the results prove.
        telling: clauses whose repair alone makes the answer right.
        harmless: clauses whose difference alone does not change the gold's result.
    """
    if why:
        return (why,)
    found = reading.found if reading is not None else ()
    harmful = [(name, clause) for name, clause in found if clause not in harmless]
    found = tuple(harmful) or found
    names = {name: clause in telling for name, clause in reversed(found)}
    for name in proved:
        # Rows that come too often have a cause in the query; they are one where none shows.
        if name != "distinct" or not names or name in names:
            names[name] = True
    if not names:
        return (OTHER,)
    return tuple(sorted(names, key=lambda name: (not names[name], rank(name))))
