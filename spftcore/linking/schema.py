"""Schema filter: the tables and columns of a database that a question is likely about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import networkx as nx

from spftcore.databases import Column, Database, ForeignKey, Table
from spftcore.linking.names import Mention, Mentions, SchemaNames
from spftcore.linking.values import ValueMatch
from spftcore.linking.weights import COLUMN_BIAS, COLUMN_WEIGHTS, TABLE_BIAS, TABLE_WEIGHTS
from spftcore.linking.words import Token, stem, tokens

TABLE_FEATURES = (
    "named", "wholly named", "rarity", "best column", "column wholly named", "rarest column",
    "columns named", "value", "neighbour named", "value in a neighbour", "keys", "named less",
    "rows", "joins two named", "joins two meant",
)  # fmt: skip
COLUMN_FEATURES = (
    "named", "wholly named", "rarity", "run", "table named", "table", "value", "primary key",
    "foreign key", "a name", "name of a named table", "number asked", "date asked", "who asked",
    "other table named", "near the table", "words", "place in table", "first text",
    "named less", "best of its words",
)  # fmt: skip


MOST_PATHS = 16  # looked at between two tables
MOST_BETWEEN = 2  # tables on a path: what is further apart is hardly joined


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in text.split())


_NAME = _stems("name title")
_NUMBER = _stems(
    "average total sum maximum minimum highest lowest largest smallest most least more less number"
    " above below over under amount greater older oldest younger youngest longer longest"
)
_DATE = _stems("when date year month day time earliest latest recent before after since during old")
_WHO = _stems("who whom whose")


@dataclass(frozen=True, slots=True)
class TableView:
    """A table with the columns kept of it, both with their scores (log-odds of being needed)."""

    table: Table
    columns: tuple[Column, ...]
    score: float
    column_scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SchemaView:
    """A part of a schema: tables and columns in the schema's order."""

    database: Database
    tables: tuple[TableView, ...]

    @property
    def foreign_keys(self) -> tuple[ForeignKey, ...]:
        """The keys of which both ends are kept."""
        kept = {
            (view.table.name.lower(), column.name.lower())
            for view in self.tables
            for column in view.columns
        }
        return tuple(
            key
            for key in self.database.foreign_keys
            if (key.table.lower(), key.column.lower()) in kept
            and (key.ref_table.lower(), key.ref_column.lower()) in kept
        )


def filter_schema(
    database: Database,
    question: str,
    *,
    tables: int,
    columns: int,
    values: Iterable[ValueMatch] = (),
) -> SchemaView:
    """The part of a schema that a question is likely about.

    The best tables are kept, and of each the best columns. Kept on top of these numbers: the
    tables on the shortest path of foreign keys between two kept ones, and the columns that join
    kept tables.

    Args:
        database: the whole schema.
        question: natural-language question, with its evidence where there is some.
        tables: tables to keep (k1); 0 keeps all.
        columns: columns to keep of each table (k2); 0 keeps all.
        values: the values that the question mentions, as evidence for their columns.
    """
    scored = score_schema(database, question, values)
    return choose(database, scored, tables=tables, columns=columns)


def choose(
    database: Database, scored: Scores, *, tables: int, columns: int, needed: Needed | None = None
) -> SchemaView:
    """The part of a schema with the best scores; `filter_schema` says what is kept on top.

    Args:
        database: the whole schema.
        scored: of its tables and columns.
        tables: tables to keep; 0: all.
        columns: columns to keep of each; 0: all.
        needed: tables and columns that are kept in any case.
    """
    needed = needed or Needed(frozenset(), frozenset())
    order = sorted(range(len(database.tables)), key=lambda t: (-scored.tables[t], t))
    count = tables or len(order)
    named = [t for t in order if database.tables[t].name.lower() in needed.tables]
    kept = set(named) | set([t for t in order if t not in named][: max(0, count - len(named))])
    kept |= _between(database, kept, scored.tables)
    joining = _joining(database, kept)
    views = []
    for t in sorted(kept):
        table, scores = database.tables[t], scored.columns[t]
        name = table.name.lower()
        fixed = {
            c
            for c, column in enumerate(table.columns)
            if (name, column.name.lower()) in joining
            or (name, column.name.lower()) in needed.columns
        }
        ranked = sorted(
            (c for c in range(len(table.columns)) if c not in fixed),
            key=lambda c: (-scores[c], c),
        )
        among = sum((name, table.columns[c].name.lower()) in needed.columns for c in fixed)
        best = ranked[: max(0, columns - among)] if columns else ranked
        chosen = sorted(fixed | set(best))
        views.append(
            TableView(
                table,
                tuple(table.columns[c] for c in chosen),
                scored.tables[t],
                tuple(scores[c] for c in chosen),
            )
        )
    return SchemaView(database, tuple(views))


@dataclass(frozen=True, slots=True)
class Needed:
    """Lower-case names of tables, and (table, column) of columns."""

    tables: frozenset[str]
    columns: frozenset[tuple[str, str]]


@lru_cache(maxsize=512)
def _graph(database: Database) -> nx.Graph[int]:
    """Tables as numbers, joined by foreign keys."""
    numbers = {table.name.lower(): t for t, table in enumerate(database.tables)}
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(database.tables)))
    for key in database.foreign_keys:
        ends = numbers.get(key.table.lower()), numbers.get(key.ref_table.lower())
        if ends[0] is not None and ends[1] is not None and ends[0] != ends[1]:
            graph.add_edge(*ends)
    return graph


def _between(database: Database, kept: set[int], scores: Sequence[float]) -> set[int]:
    """Tables on the shortest paths that join the kept ones into as few parts as can be; of paths
    of one length, the one whose tables have the best scores."""
    order = sorted(kept)
    parts = nx.utils.UnionFind(order)
    added: set[int] = set()
    pairs = [
        (len(paths[0]), left, right, paths)
        for i, left in enumerate(order)
        for right in order[i + 1 :]
        if (paths := _paths(database, left, right)) and len(paths[0]) <= 2 + MOST_BETWEEN
    ]
    for _, left, right, paths in sorted(pairs):
        if parts[left] != parts[right]:
            parts.union(left, right)
            added.update(max(paths, key=lambda path: sum(scores[t] for t in path)))
    return added - kept


@lru_cache(maxsize=65_536)
def _paths(database: Database, left: int, right: int) -> tuple[tuple[int, ...], ...]:
    """Shortest paths between two tables, ends included; a few where there are many."""
    try:
        paths = nx.all_shortest_paths(_graph(database), left, right)
        return tuple(sorted(tuple(path) for path in islice(paths, MOST_PATHS)))
    except nx.NetworkXNoPath:
        return ()


def _joining(database: Database, kept: set[int]) -> set[tuple[str, str]]:
    names = {database.tables[t].name.lower() for t in kept}
    found = set()
    for key in database.foreign_keys:
        if key.table.lower() in names and key.ref_table.lower() in names:
            found.add((key.table.lower(), key.column.lower()))
            found.add((key.ref_table.lower(), key.ref_column.lower()))
    return found


# -- scores -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-odds that a query for the question needs each table, and each column of each table."""

    tables: list[float]
    columns: list[list[float]]


def score_schema(database: Database, question: str, values: Iterable[ValueMatch] = ()) -> Scores:
    """How likely each table and column is needed."""
    look = _Look(database, question, values)
    tables = [_dot(look.table(t), _TABLE, TABLE_BIAS) for t in range(len(database.tables))]
    columns = [
        [
            _dot(look.column(t, c, tables[t]), _COLUMN, COLUMN_BIAS)
            for c in range(len(table.columns))
        ]
        for t, table in enumerate(database.tables)
    ]
    return Scores(tables, columns)


def features(
    database: Database, question: str, values: Iterable[ValueMatch] = ()
) -> tuple[list[tuple[float, ...]], list[list[tuple[float, ...]]]]:
    """(features of the tables, features of the columns of each table), for fitting."""
    look = _Look(database, question, values)
    tables = [look.table(t) for t in range(len(database.tables))]
    columns = [
        [look.column(t, c, _dot(tables[t], _TABLE, TABLE_BIAS)) for c in range(len(table.columns))]
        for t, table in enumerate(database.tables)
    ]
    return tables, columns


def _dot(values: Sequence[float], weights: Sequence[float], bias: float) -> float:
    return bias + sum(w * v for w, v in zip(weights, values, strict=True))


_TABLE = [TABLE_WEIGHTS[name] for name in TABLE_FEATURES]
_COLUMN = [COLUMN_WEIGHTS[name] for name in COLUMN_FEATURES]


@lru_cache(maxsize=512)
def schema_names(database: Database) -> SchemaNames:
    """The words of a schema's names."""
    return SchemaNames(database)


class _Look:
    """One question's view of one schema."""

    def __init__(self, database: Database, question: str, values: Iterable[ValueMatch]) -> None:
        self.database = database
        asked: tuple[Token, ...] = tokens(question)
        self.names = schema_names(database)
        self.mentions: Mentions = self.names.match(asked)
        self.stems = {token.stem for token in asked}
        self.value: dict[tuple[str, str], float] = {}
        for match in values:
            place = (match.table.lower(), match.column.lower())
            self.value[place] = max(self.value.get(place, 0.0), match.score)
        self.of_table: dict[str, float] = {}
        for (table, _), score in self.value.items():
            self.of_table[table] = max(self.of_table.get(table, 0.0), score)
        self.best_table = max((m.share for m in self.mentions.tables), default=0.0)
        self.meant = [
            max(
                mention.share,
                self.of_table.get(table.name.lower(), 0.0),
                0.8 * max((c.share for c in columns), default=0.0),
            )
            for table, mention, columns in zip(
                database.tables, self.mentions.tables, self.mentions.columns, strict=True
            )
        ]
        self.keys = {(key.table.lower(), key.column.lower()) for key in database.foreign_keys}
        # For each set of places in the question, the best share of a column found there.
        self.rivals: dict[tuple[int, ...], float] = {}
        self.table_of: dict[tuple[int, ...], list[tuple[float, int]]] = {}
        for t, mentions in enumerate(self.mentions.columns):
            for mention in mentions:
                at = mention.positions
                if at:
                    self.rivals[at] = max(self.rivals.get(at, 0.0), mention.share)
                    self.table_of.setdefault(at, []).append((self.mentions.tables[t].share, t))

    def table(self, t: int) -> tuple[float, ...]:
        mention = self.mentions.tables[t]
        columns = self.mentions.columns[t]
        share = max((c.share for c in columns), default=0.0)
        near = list(_graph(self.database)[t])
        table = self.database.tables[t]
        return (
            mention.share,
            float(mention.share > 0.99),
            mention.weight,
            share,
            float(share > 0.99),
            max((c.weight for c in columns), default=0.0),
            math.log1p(sum(c.share > 0.5 for c in columns)),
            self.of_table.get(table.name.lower(), 0.0),
            max((self.mentions.tables[n].share for n in near), default=0.0),
            max(
                (self.of_table.get(self.database.tables[n].name.lower(), 0.0) for n in near),
                default=0.0,
            ),
            math.log1p(len(near)),
            self.best_table - mention.share,
            float(table.rows > 0),
            sorted((self.mentions.tables[n].share for n in near), reverse=True)[1]
            if len(near) > 1
            else 0.0,
            sorted((self.meant[n] for n in near), reverse=True)[1] if len(near) > 1 else 0.0,
        )

    def column(self, t: int, c: int, table_score: float) -> tuple[float, ...]:
        table = self.database.tables[t]
        column = table.columns[c]
        mention: Mention = self.mentions.columns[t][c]
        named = self.mentions.tables[t]
        words = {word for reading in self.names.columns[t][c] for word in reading}
        is_name = bool(words & _NAME)
        first = next(
            (
                n
                for n, other in enumerate(table.columns)
                if other.kind == "text" and not other.primary_key
            ),
            -1,
        )
        place = (table.name.lower(), column.name.lower())
        others = [s for s, n in self.table_of.get(mention.positions, ()) if n != t]
        best = max((m.share for m in self.mentions.columns[t]), default=0.0)
        distance = min((abs(p - q) for p in mention.positions for q in named.positions), default=99)
        return (
            mention.share,
            float(mention.share > 0.99),
            mention.weight,
            float(mention.run),
            named.share,
            table_score,
            self.value.get(place, 0.0),
            float(column.primary_key),
            float(place in self.keys),
            float(is_name),
            float(is_name) * named.share,
            float(column.kind == "number" and bool(self.stems & _NUMBER)),
            float((column.kind == "date" or bool(words & _DATE)) and bool(self.stems & _DATE)),
            float(is_name and bool(self.stems & _WHO)),
            max(others, default=0.0) - named.share if others else 0.0,
            1 / max(1, distance),
            float(len(words)),
            c / max(1, len(table.columns) - 1),
            float(c == first),
            best - mention.share,
            float(bool(mention.positions))
            * float(mention.share >= self.rivals.get(mention.positions, 0.0)),
        )
