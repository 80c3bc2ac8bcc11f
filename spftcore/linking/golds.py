"""Which tables and columns a gold query uses: what a training prompt must show."""

from __future__ import annotations

import random
from collections.abc import Sequence

from spftcore.databases import Database
from spftcore.linking.schema import Needed, Scores
from spftcore.linking.words import words
from spftcore.synthesis.resolve import ResolveError, resolve

SURE = 1e6  # a score that no other one reaches


def needed(sql: str, database: Database) -> Needed:
    """The tables and columns behind the names of a query; of a query that cannot be read against
    the schema, all those whose names it contains."""
    try:
        resolved = resolve(sql, database)
    except ResolveError:
        return _by_name(sql, database)
    columns = {
        (use.base[0].name.lower(), use.base[1].name.lower())
        for scope in resolved.scopes
        for use in scope.uses
        if use.base is not None
    }
    tables = {
        source.table.name.lower()
        for scope in resolved.scopes
        for source in scope.sources
        if source.table is not None
    }
    return Needed(frozenset(tables | {table for table, _ in columns}), frozenset(columns))


def _by_name(sql: str, database: Database) -> Needed:
    said = f" {' '.join(words(sql.replace('_', ' ')))} "

    def mentioned(name: str) -> bool:
        return f" {' '.join(words(name.replace('_', ' ')))} " in said

    tables = [table for table in database.tables if mentioned(table.name)]
    columns = {
        (table.name.lower(), column.name.lower())
        for table in tables
        for column in table.columns
        if mentioned(column.name)
    }
    return Needed(frozenset(table.name.lower() for table in tables), frozenset(columns))


def padded(
    database: Database, scored: Scores, need: Needed, *, tables: int, columns: int, seed: str
) -> Scores:
    """Scores under which a choice holds what a gold query needs, half of the free places as the
    filter would fill them, and the rest at random (CodeS pads its training prompts so: a model
    that only ever saw needed tables would trust whatever the filter lets through).

    Args:
        database: the schema.
        scored: the filter's scores.
        need: what the gold query uses.
        tables: how many tables will be kept (0: all).
        columns: how many columns will be kept of each (0: all).
        seed: the same seed gives the same padding, in every process.
    """
    rng = random.Random(seed)
    names = [table.name.lower() for table in database.tables]
    table_scores = _padded(scored.tables, [name in need.tables for name in names], tables, rng)
    column_scores = [
        _padded(
            scores,
            [(name, column.name.lower()) in need.columns for column in table.columns],
            columns,
            rng,
        )
        for name, table, scores in zip(names, database.tables, scored.columns, strict=True)
    ]
    return Scores(table_scores, column_scores)


def _padded(
    scores: Sequence[float], sure: Sequence[bool], places: int, rng: random.Random
) -> list[float]:
    others = sorted((i for i, s in enumerate(sure) if not s), key=lambda i: (-scores[i], i))
    free = max(0, (places or len(scores)) - sum(sure))
    by_score = (free + 1) // 2
    best, rest = others[:by_score], others[by_score:]
    rng.shuffle(rest)
    result = [SURE] * len(scores)
    for place, i in enumerate(best + rest):
        result[i] = -float(place)
    return result
