"""GROUP BY: which columns have one value in every group, so that they may be shown beside it."""

from __future__ import annotations

from spftcore.databases import Database, Table
from spftcore.synthesis.extract import Binding
from spftcore.synthesis.joins import JoinTree
from spftcore.synthesis.templates import ColumnMention, CompiledTemplate
from spftcore.synthesis.values import DatabaseValues

_End = tuple[str, str]  # table (or copy of one, `a#2`) and column


class GroupKeys:
    """The keys of one database's tables, as far as the data bear them out."""

    def __init__(self, database: Database, values: DatabaseValues) -> None:
        self.database, self.values = database, values
        referred: dict[tuple[str, str, int], set[str]] = {}
        for number, key in enumerate(database.foreign_keys):
            constraint = key.constraint if key.constraint >= 0 else -1 - number
            place = (key.table, key.ref_table, constraint)
            referred.setdefault(place, set()).add(key.ref_column)
        self._referred: dict[str, set[frozenset[str]]] = {}
        for (_, ref_table, _), columns in referred.items():
            self._referred.setdefault(ref_table, set()).add(frozenset(columns))
        self._of: dict[str, list[frozenset[str]]] = {}

    def leaves_loose(
        self, template: CompiledTemplate, binding: Binding, trees: dict[int, JoinTree]
    ) -> bool:
        """Whether a column stands bare beside a GROUP BY that does not fix its value.

        Such a column gets the value of any row of the group. A value is fixed where the column is
        grouped by, is joined to one that is, or belongs to a table of which a whole key is fixed.
        Columns inside functions are not looked at here: `gates.hangs_on_more_than_ties` does.

        Args:
            trees: the joins of the FROM clauses that the template leaves open; nothing follows
                from those that it spells out, which may be outer joins.
        """
        for number, scope in enumerate(template.scopes):
            if "group" not in scope.clauses:
                continue
            tree = trees.get(number)
            here = [m for m in template.mentions if m.scope == number and not m.function]
            grouped = {_end(m, binding, tree) for m in here if m.clause == "group"}
            tables = {
                _node(instance, binding, tree): binding.tables[instance.split("#")[0]]
                for instance in scope.instances
            }
            if tree is not None:
                tables |= {name: name for name in tree.tables}
            fixed = self._closure(grouped, tables, tree)
            around = _instances_around(template, number)
            if any(
                m.clause in ("select", "order", "having")
                and m.instance not in around
                and _end(m, binding, tree) not in fixed
                for m in here
            ):
                return True
        return False

    def _closure(
        self, grouped: set[_End], tables: dict[str, str], tree: JoinTree | None
    ) -> set[_End]:
        """All that follows from the grouped columns: over joins, and from keys to whole rows."""
        fixed = set(grouped)
        joins = [c for join in tree.joins for c in join] if tree is not None else []
        before = -1
        while len(fixed) > before:
            before = len(fixed)
            for condition in joins:
                ends = {
                    (condition.table, condition.column),
                    (condition.other, condition.other_column),
                }
                if ends & fixed:
                    fixed |= ends
            for node, name in tables.items():
                mine = {column for place, column in fixed if place == node}
                if any(key <= mine for key in self._keys(name)):
                    fixed |= {(node, column.name) for column in self.database.table(name).columns}
        return fixed

    def _keys(self, name: str) -> list[frozenset[str]]:
        """The declared key and the referred columns of a table, without those that rows share."""
        if name not in self._of:
            table = self.database.table(name)
            primary = frozenset(column.name for column in table.primary_key)
            # A schema may call a key what is none, and a sample cannot tell that one is.
            whole = len(self.values.rows(name)) >= table.rows
            keys = {key for key in self._referred.get(name, ()) if whole}
            keys |= {primary} if primary else set()
            self._of[name] = [key for key in keys if self._differ(table, key)]
        return self._of[name]

    def _differ(self, table: Table, key: frozenset[str]) -> bool:
        """Whether no two of the rows at hand agree in these columns."""
        places = [self.values.position(table.name, column) for column in key]
        rows = self.values.rows(table.name)
        return len({tuple(row[place] for place in places) for row in rows}) == len(rows)


def _node(instance: str, binding: Binding, tree: JoinTree | None) -> str:
    """What stands for one copy of a table: joins rebuilt from keys read each table once."""
    return instance if tree is None else binding.tables[instance.split("#")[0]]


def _end(mention: ColumnMention, binding: Binding, tree: JoinTree | None) -> _End:
    return _node(mention.instance, binding, tree), binding.columns[mention.slot]


def _instances_around(template: CompiledTemplate, number: int) -> set[str]:
    """The tables of the SELECTs around one, whose values are the same for all its rows."""
    found: set[str] = set()
    scope = template.scopes[number].parent
    while scope is not None:
        found |= set(template.scopes[scope].instances)
        scope = template.scopes[scope].parent
    return found - set(template.scopes[number].instances)
