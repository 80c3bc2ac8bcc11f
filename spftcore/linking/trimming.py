"""How a prompt that is too long is made shorter: a fixed order of what is left out first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spftcore.linking.schema import Needed, SchemaView, TableView
from spftcore.linking.values import ValueMatch
from spftcore.schema_text import Detail

NEAR_COLUMNS = 4  # of each table, kept until far tables are gone


class Trimming:
    """The steps from a full prompt to the shortest one.

    Level 0 shows all. Then, one level each, go: the example values; the names in words and the
    comments; the columns beyond the best few of each table, the least likely first; the tables,
    the least likely first, until one is left; the remaining columns; the linked values, the least
    likely first. Keys that join two kept tables stay as long as these, and what a gold query
    needs stays to the end.
    """

    def __init__(self, view: SchemaView, values: Sequence[ValueMatch], need: Needed) -> None:
        self._view = view
        self._values = list(values)
        joins = {
            end
            for key in view.foreign_keys
            for end in (
                (key.table.lower(), key.column.lower()),
                (key.ref_table.lower(), key.ref_column.lower()),
            )
        }
        far: list[tuple[float, int, int]] = []
        near: list[tuple[float, int, int]] = []
        for t, table in enumerate(view.tables):
            name = table.table.name.lower()
            fixed = joins | need.columns
            loose = sorted(
                (
                    (table.column_scores[c], t, c)
                    for c, column in enumerate(table.columns)
                    if (name, column.name.lower()) not in fixed
                ),
                key=lambda item: (-item[0], item[2]),
            )
            near += loose[:NEAR_COLUMNS]
            far += loose[NEAR_COLUMNS:]
        order = [
            (table.score, t)
            for t, table in enumerate(view.tables)
            if table.table.name.lower() not in need.tables
        ]
        order.sort(key=lambda item: (item[0], -item[1]))
        if len(order) == len(view.tables):
            order = order[:-1]
        self._tables = [t for _, t in order]
        self._far = _least_first(far)
        # The tables are gone by the time these are.
        self._near = [(t, c) for t, c in _least_first(near) if t not in self._tables]
        last = {view.tables[t].table.name for t in range(len(view.tables))} - {
            view.tables[t].table.name for t in self._tables
        }
        self._last_values = sum(match.table in last for match in self._values)

    @property
    def levels(self) -> int:
        """How many prompts there are, each shorter than the one before."""
        return 3 + len(self._far) + len(self._tables) + len(self._near) + self._last_values

    def at(self, level: int) -> tuple[SchemaView, Detail, list[ValueMatch]]:
        """(tables and columns, what is said of them, values) of one level."""
        detail = Detail(examples=level < 1, comments=level < 2)
        left = max(0, level - 2)
        gone_far = set(self._far[:left])
        left -= len(gone_far)
        gone_tables = set(self._tables[:left])
        left -= len(gone_tables)
        gone = gone_far | set(self._near[:left])
        left -= len(gone) - len(gone_far)
        tables = tuple(
            _without(table, {c for of, c in gone if of == t})
            for t, table in enumerate(self._view.tables)
            if t not in gone_tables
        )
        kept = {view.table.name for view in tables}
        values = [match for match in self._values if match.table in kept]
        return replace(self._view, tables=tables), detail, values[: len(values) - left]


def _least_first(columns: list[tuple[float, int, int]]) -> list[tuple[int, int]]:
    return [(t, c) for _, t, c in sorted(columns, key=lambda item: (item[0], -item[1], -item[2]))]


def _without(view: TableView, gone: set[int]) -> TableView:
    if not gone:
        return view
    kept = [c for c in range(len(view.columns)) if c not in gone]
    return replace(
        view,
        columns=tuple(view.columns[c] for c in kept),
        column_scores=tuple(view.column_scores[c] for c in kept),
    )
