"""FROM clauses rebuilt from foreign keys: the smallest join tree over the wanted tables."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import networkx as nx

from spftcore.databases import Database, ForeignKey

MOST_PATHS = 12  # ways between two tables that are looked at, the shortest first
RARER = 0.1  # weight of a way for each key more than the shortest has, and each proposed key


@dataclass(frozen=True)
class JoinCondition:
    """`table.column = other.other_column`; `table` is the one that stands earlier in FROM."""

    table: str
    column: str
    other: str
    other_column: str

    def columns(self) -> frozenset[tuple[str, str]]:
        """Both ends, without their order, in lower case."""
        return frozenset(
            (
                (self.table.lower(), self.column.lower()),
                (self.other.lower(), self.other_column.lower()),
            )
        )


@dataclass(frozen=True)
class JoinTree:
    """The tables of a FROM clause in order, and for each after the first how it is joined."""

    tables: tuple[str, ...]
    joins: tuple[tuple[JoinCondition, ...], ...]

    def edges(self) -> frozenset[frozenset[tuple[str, str]]]:
        """All conditions without direction or order."""
        return frozenset(condition.columns() for join in self.joins for condition in join)


class JoinGraph:
    """The tables of one database and the foreign keys between them."""

    def __init__(self, database: Database) -> None:
        self._graph = nx.Graph()
        self._graph.add_nodes_from(table.name for table in database.tables)
        constraints: dict[tuple[str, str, int], list[ForeignKey]] = {}
        for number, key in enumerate(database.foreign_keys):
            constraint = key.constraint if key.constraint >= 0 else -1 - number
            constraints.setdefault((key.table, key.ref_table, constraint), []).append(key)
        for (table, ref_table, _), keys in constraints.items():
            if table == ref_table:
                continue  # a table joins itself only where a template says so
            if not self._graph.has_edge(table, ref_table):
                self._graph.add_edge(table, ref_table, ways=[], proposed=True)
            edge = self._graph.edges[table, ref_table]
            proposed = keys[0].origin == "proposed"
            if edge["proposed"] and not proposed:  # a key that is sure displaces guesses
                edge["ways"].clear()
                edge["proposed"] = False
            if proposed == edge["proposed"]:
                edge["ways"].append((table, tuple((k.column, k.ref_column) for k in keys)))
        self._lengths: dict[str, dict[str, int]] = {}
        self._paths: dict[tuple[str, str], tuple[list[list[str]], list[float]]] = {}
        self._fixed: dict[tuple[str, ...], JoinTree | None] = {}

    def distance(self, one: str, other: str) -> int | None:
        """Foreign keys between two tables on the shortest way, or None when there is no way."""
        if one not in self._lengths:
            self._lengths[one] = dict(nx.single_source_shortest_path_length(self._graph, one))
        return self._lengths[one].get(other)

    def neighbours(self, table: str) -> list[str]:
        """The tables one foreign key away, in either direction."""
        return list(self._graph.neighbors(table))

    def tree(self, tables: Sequence[str], rng: random.Random | None = None) -> JoinTree | None:
        """The join tree over the tables, grown along shortest ways; None when they are apart.

        With `rng`, ways that are at most one key longer than the shortest, and several keys
        between two tables, are chosen among at random: a longer way and one through a proposed
        key have a tenth of the weight. Without, the likeliest and first by name is taken, so that
        the answer is always the same.
        """
        if rng is None:
            wanted = tuple(tables)
            if wanted not in self._fixed:
                self._fixed[wanted] = self._grow(wanted, None)
            return self._fixed[wanted]
        return self._grow(tables, rng)

    def _grow(self, tables: Sequence[str], rng: random.Random | None) -> JoinTree | None:
        inside = [tables[0]]
        joins: list[tuple[JoinCondition, ...]] = []
        missing = list(tables[1:])
        while missing:
            best: tuple[int, int, int] | None = None
            for position, wanted in enumerate(missing):
                for start, table in enumerate(inside):
                    length = self.distance(table, wanted)
                    if length is not None and (best is None or (length, position, start) < best):
                        best = (length, position, start)
            if best is None:
                return None
            path = self._path(inside[best[2]], missing[best[1]], rng)
            for left, right in pairwise(path):
                if right not in inside:
                    joins.append(self._condition(left, right, rng))
                    inside.append(right)
            missing = [table for table in missing if table not in inside]
        return JoinTree(tuple(inside), tuple(joins))

    def _path(self, start: str, end: str, rng: random.Random | None) -> list[str]:
        if (start, end) not in self._paths:
            weighed = []
            for path in islice(nx.shortest_simple_paths(self._graph, start, end), MOST_PATHS):
                longer = len(path) - 1 - (self.distance(start, end) or 0)
                if longer > 1:
                    break
                guesses = sum(self._graph.edges[edge]["proposed"] for edge in pairwise(path))
                weighed.append((-(RARER ** (longer + guesses)), path))
            weighed.sort()
            self._paths[start, end] = ([path for _, path in weighed], [-w for w, _ in weighed])
        paths, weights = self._paths[start, end]
        return paths[0] if rng is None or len(paths) == 1 else rng.choices(paths, weights)[0]

    def _condition(
        self, left: str, right: str, rng: random.Random | None
    ) -> tuple[JoinCondition, ...]:
        ways = self._graph.edges[left, right]["ways"]
        table, pairs = ways[0] if rng is None or len(ways) == 1 else rng.choice(ways)
        if table == left:
            return tuple(JoinCondition(left, column, right, ref) for column, ref in pairs)
        return tuple(JoinCondition(left, ref, right, column) for column, ref in pairs)
