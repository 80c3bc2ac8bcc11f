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
    found = list(scored)
    for place, (i, why, reading) in enumerate(zip(chosen, whys, readings, strict=True)):
        one = scored[i]
        proved: tuple[str, ...] = ()
        if not why and not one.near_miss:
            proved = _proved(one, reading, schemas[one.database], executor)
        telling, harmless = tried.get(place, (frozenset(), frozenset()))
        found[i] = replace(one, mistakes=ordered_classes(reading, why, proved, telling, harmless))
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
    one: Scored, reading: Reading | None, database: Database, executor: Executor
) -> tuple[str, ...]:
    try:
        gold = executor.rows(database.path, one.gold)[1]
        answer = executor.rows(database.path, one.sql)[1]
    except SpftError:
        return ()
    if max(len(gold), len(answer)) > _MOST_ROWS:
        return ()
    ordered = reading is not None and reading.gold.args.get("order") is not None
    return result_mistakes(gold, answer, ordered)
