"""The mistakes of all wrong answers of an evaluation, with the executor's help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sqlglot import exp

from spftcore.catalogue.descriptions import describe
from spftcore.catalogue.reading import read_database
from spftcore.catalogue.sensitive import Sensitivity
from spftcore.databases import Database
from spftcore.errors import SpftError
from spftcore.metrics.records import Scored
from spftcore.mistakes.classify import Reading, ordered_classes, read
from spftcore.mistakes.failures import failure
from spftcore.mistakes.rows import result_mistakes
from spftcore.synthesis.sql_text import UNREADABLE, print_sql
from spftcore.verify import Compare, Executor, Verdict

# Clauses of a SELECT that can be exchanged between gold and answer, by the name that
# `differences` gives them.
_CLAUSES = {
    "from": ("from_", "joins"),
    "select": ("expressions",),
    "distinct": ("distinct",),
    "where": ("where",),
    "group": ("group",),
    "having": ("having",),
    "order": ("order",),
    "limit": ("limit", "offset"),
}
_MOST_ROWS = 2_000  # of a result whose rows are compared


def find_mistakes(
    scored: Sequence[Scored],
    databases: Mapping[str, Path],
    executor: Executor,
    metric: Compare = "bag",
) -> list[Scored]:
    """The records with `mistakes` filled for every wrong answer and every near miss.

    Each clause in which an answer differs is tried out: the gold with the answer's clause, which
    must then give another result for the difference to count, and the answer with the gold's
    clause, which puts the difference first when the answer is right then.

    Args:
        scored: an evaluation's records; excluded ones and right answers are left as they are.
        databases: files by id; an answer about another database, or about one that cannot be
            read, stays without classes.
        executor: runs what is tried out.
        metric: `spider`, `bag` or `bird`: what is right and wrong.
    """
    chosen = [
        i
        for i, one in enumerate(scored)
        if not one.excluded and (one.scores.get(metric) == 0 or one.near_miss)
    ]
    schemas = _schemas({scored[i].database for i in chosen}, databases)
    chosen = [i for i in chosen if scored[i].database in schemas]
    whys = [failure(scored[i].sql, scored[i].status, scored[i].message) for i in chosen]
    readings = [
        None if why else read(scored[i].gold, scored[i].sql, schemas[scored[i].database])
        for i, why in zip(chosen, whys, strict=True)
    ]
    tried = _try_out(
        [(scored[i], reading) for i, reading in zip(chosen, readings, strict=True)],
        schemas,
        executor,
        metric,
    )
    proved = _proved(
        [
            (scored[i], reading, schemas[scored[i].database])
            for i, why, reading in zip(chosen, whys, readings, strict=True)
            if not why and not scored[i].near_miss
        ],
        executor,
    )
    found = list(scored)
    for place, (i, why, reading) in enumerate(zip(chosen, whys, readings, strict=True)):
        telling, harmless = tried.get(place, (frozenset(), frozenset()))
        mistakes = ordered_classes(reading, why, proved.get(scored[i].id, ()), telling, harmless)
        found[i] = replace(scored[i], mistakes=mistakes)
    return found


def _schemas(ids: set[str], databases: Mapping[str, Path]) -> dict[str, Database]:
    """The schemas of the databases that are there and can be read."""
    found = {}
    for name in sorted(ids & databases.keys()):
        with suppress(SpftError):
            nothing = describe(None, {})
            found[name] = read_database(
                name, Path(databases[name]), nothing, Sensitivity(), propose=False
            )
    return found


def _try_out(
    cases: Sequence[tuple[Scored, Reading | None]],
    schemas: Mapping[str, Database],
    executor: Executor,
    metric: Compare,
) -> dict[int, tuple[frozenset[str], frozenset[str]]]:
    """By case: clauses whose repair suffices, and clauses whose difference changes nothing."""
    items = []
    asked: list[tuple[int, list[str]]] = []
    for place, (one, reading) in enumerate(cases):
        if reading is None:
            continue
        if not (isinstance(reading.gold, exp.Select) and isinstance(reading.answer, exp.Select)):
            continue
        clauses = list(dict.fromkeys(clause for _, clause in reading.found if clause in _CLAUSES))
        if len(clauses) < 2:  # a lone difference is the mistake
            continue
        try:
            candidates = [
                print_sql(_exchanged(*pair, clause))
                for clause in clauses
                for pair in ((reading.gold, reading.answer), (reading.answer, reading.gold))
            ]
        except UNREADABLE:
            continue
        asked.append((place, clauses))
        items.append((schemas[one.database].path, one.gold, candidates))
    found = {}
    for (place, clauses), judged in zip(asked, executor.verify(items, metric), strict=True):
        worse, repaired = judged[::2], judged[1::2]
        found[place] = (
            frozenset(c for c, j in zip(clauses, repaired, strict=True) if _right(j.verdict)),
            # Of a near miss nothing shows on the first database.
            frozenset()
            if cases[place][0].near_miss
            else frozenset(c for c, j in zip(clauses, worse, strict=True) if _right(j.verdict)),
        )
    return found


def _right(verdict: Verdict) -> bool:
    return verdict is Verdict.RIGHT


def _exchanged(query: exp.Select, other: exp.Select, clause: str) -> exp.Select:
    """A copy of a query with one clause of another."""
    copy = query.copy()
    for name in _CLAUSES[clause]:
        value = other.args.get(name)
        if isinstance(value, list):
            copy.set(name, [item.copy() for item in value])
        else:
            copy.set(name, value.copy() if isinstance(value, exp.Expr) else value)
    return copy


def _proved(
    cases: Sequence[tuple[Scored, Reading | None, Database]], executor: Executor
) -> dict[str, tuple[str, ...]]:
    """What the results prove, by question id."""
    outcomes = executor.execute(
        [(database.path, sql) for one, _, database in cases for sql in (one.gold, one.sql)]
    )
    found = {}
    for number, (one, reading, database) in enumerate(cases):
        gold, answer = outcomes[2 * number], outcomes[2 * number + 1]
        most = max(gold.rows, answer.rows)
        # Columns too many or too few are proved row by row.
        comparable = gold.columns == answer.columns or gold.rows == answer.rows
        if not (gold.ran and answer.ran and comparable and most <= _MOST_ROWS):
            continue
        ordered = reading is not None and reading.gold.args.get("order") is not None
        with suppress(SpftError):
            rows = [executor.rows(database.path, sql)[1] for sql in (one.gold, one.sql)]
            found[one.id] = result_mistakes(rows[0], rows[1], ordered)
    return found
