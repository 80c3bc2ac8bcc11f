"""Filling: a template gets tables, columns and values of one database, at random."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from spftcore.databases import Column, Database
from spftcore.synthesis.extract import Binding
from spftcore.synthesis.grouping import GroupKeys
from spftcore.synthesis.joins import JoinTree
from spftcore.synthesis.plan import FittingColumns, Plan, column_facts, make_plan, overlap
from spftcore.synthesis.render import FillError, join_trees, render
from spftcore.synthesis.templates import (
    CompiledTemplate,
    Template,
    ValueMention,
    ValueSlot,
)
from spftcore.synthesis.values import DatabaseValues, literal

_COUNTS = (1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8, 10)
_LIMITS = (2, 3, 3, 3, 4, 5, 5, 10)


def fill(template: Template, database: Database, rng: random.Random) -> str:
    """One random filling of a template in a database.

    Raises:
        FillError: nothing in this database fits, or this draw led nowhere; `cause` says which.
    """
    return _filler(database).fill(template, rng).sql


@lru_cache(maxsize=256)
def _filler(database: Database) -> Filler:
    return Filler(database)


def _last_word(column: Column) -> str:
    return column.natural_name.lower().split()[-1] if column.natural_name.strip() else ""


@dataclass(frozen=True)
class Filled:
    """A filled template: the query, what its slots stand for, and all tables it reads."""

    sql: str
    binding: Binding
    tables: frozenset[str]


class Filler:
    """Fills templates in one database; keeps its values and what fits which template."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.values = DatabaseValues(database)
        self._facts = column_facts(database)
        self._keys = GroupKeys(database, self.values)
        self._fitting: FittingColumns = {}
        self._plans: dict[str, Plan | FillError] = {}
        self._alike: dict[tuple[str, str, str, str], bool] = {}
        self._rows_by_value: dict[tuple[str, str], dict[object, list[int]]] = {}

    def plan(self, template: Template) -> Plan:
        """What fits a template here. Raises FillError when nothing does."""
        known = self._plans.get(template.id)
        if known is None:
            try:
                known = make_plan(
                    template.compiled, self.database, self.values, self._facts, self._fitting
                )
            except FillError as error:
                # A new one: that which was raised holds the frames of the search.
                known = FillError(error.cause, error.hopeless)
            self._plans[template.id] = known
        if isinstance(known, FillError):
            raise FillError(known.cause, known.hopeless)
        return known

    def takes(self, template: Template, table: str) -> bool:
        """Whether a template fits here with this table in one of its slots."""
        try:
            return any(table in assignment for assignment in self.plan(template).assignments)
        except FillError:
            return False

    def fill(self, template: Template, rng: random.Random, table: str = "") -> Filled:
        """One random filling, with a certain table among its own if one is named.

        Raises:
            FillError: nothing fits, or this draw led nowhere.
        """
        plan = self.plan(template)
        compiled = template.compiled
        assignments, weights = plan.assignments, plan.weights
        if table:
            places = [n for n, names in enumerate(assignments) if table in names]
            if not places:
                raise FillError("no table fits")
            assignments, weights = [assignments[n] for n in places], [weights[n] for n in places]
        assignment = rng.choices(assignments, weights)[0]
        tables = dict(zip(compiled.tables, assignment, strict=True))
        columns = self._columns(compiled, plan, tables, rng)
        binding = Binding(tables, columns, {})
        trees = join_trees(compiled, binding, self.database, rng)
        read = frozenset(assignment).union(*(tree.tables for tree in trees.values()))
        self._refuse_stars_over_sensitive(compiled, read)
        if self._keys.leaves_loose(compiled, binding, trees):
            raise FillError("nonsense: column not fixed by GROUP BY")
        self._refuse_groups_of_one(compiled, binding, trees)
        self._draw_values(compiled, binding, trees, rng)
        return Filled(render(compiled, binding, self.database, trees), binding, read)

    def _refuse_stars_over_sensitive(
        self, template: CompiledTemplate, tables: frozenset[str]
    ) -> None:
        if template.stars and any(
            column.sensitive for name in tables for column in self.database.table(name).columns
        ):
            raise FillError("star over a sensitive column")

    # Columns

    def _columns(
        self,
        template: CompiledTemplate,
        plan: Plan,
        tables: dict[str, str],
        rng: random.Random,
    ) -> dict[str, str]:
        chosen: dict[str, str] = {}
        # A slot that must be like another is chosen after it.
        for slot in sorted(template.columns.values(), key=lambda slot: slot.like != ""):
            table = tables[slot.table]
            taken = {
                name
                for other, name in chosen.items()
                if template.columns[other].table == slot.table
            }
            fit = [name for name in plan.columns[slot.name, table] if name not in taken]
            if slot.refers:
                target = tables[slot.refers]
                fit = [name for name in fit if self._refers(table, name, target)]
            if slot.like and slot.like in chosen:
                other = template.columns[slot.like]
                end = tables[other.table], chosen[slot.like]
                fit = [name for name in fit if self._is_alike(table, name, *end)]
            if not fit:
                raise FillError("no column fits")
            chosen[slot.name] = rng.choice(fit)
        return chosen

    def _refers(self, table: str, column: str, target: str) -> bool:
        return any(
            (key.table, key.column, key.ref_table) == (table, column, target)
            for key in self.database.foreign_keys
        )

    def _is_alike(self, table: str, column: str, other_table: str, other: str) -> bool:
        """Whether comparing two columns makes sense: a foreign key, or the same sort of value."""
        key = (table, column, other_table, other)
        if key not in self._alike:
            one, two = self.database.column(table, column), self.database.column(other_table, other)
            ends = {(table, column), (other_table, other)}
            targets: list[set[tuple[str, str]]] = [{(table, column)}, {(other_table, other)}]
            linked = False
            for foreign in self.database.foreign_keys:
                source = (foreign.table, foreign.column)
                target = (foreign.ref_table, foreign.ref_column)
                linked |= {source, target} == ends
                for position, end in enumerate(((table, column), (other_table, other))):
                    if source == end:
                        targets[position].add(target)
            keys = [
                self.database.is_foreign_key(table, column) or one.primary_key,
                self.database.is_foreign_key(other_table, other) or two.primary_key,
            ]
            same = one.kind == two.kind and not any(keys)
            self._alike[key] = (
                linked
                or bool(targets[0] & targets[1])
                or (same and one.natural_name.lower() == two.natural_name.lower())
                # Small numbers overlap whatever they count, so numbers go by their names: `salary`
                # and `min salary` have one unit.
                or (same and one.kind == "number" and _last_word(one) == _last_word(two))
                or (
                    same
                    and one.kind != "number"
                    and overlap(self.values, (table, column), (other_table, other)) >= 0.3
                )
            )
        return self._alike[key]

    def _refuse_groups_of_one(
        self, template: CompiledTemplate, binding: Binding, trees: dict[int, JoinTree]
    ) -> None:
        """Grouping by a table's key says something only where other rows refer to that key."""
        for mention in template.mentions:
            slot = template.columns[mention.slot]
            if mention.clause != "group" or mention.function or not slot.primary or slot.foreign:
                continue
            end = (binding.tables[slot.table], binding.columns[slot.name])
            tree = trees.get(mention.scope)
            if tree is None:
                if len(template.scopes[mention.scope].instances) > 1:
                    continue  # joins that the template spells out are its own
                raise FillError("nonsense: groups of one row")
            if not any(
                end in ((c.table, c.column), (c.other, c.other_column))
                for join in tree.joins
                for c in join
            ):
                raise FillError("nonsense: groups of one row")

    # Values

    def _draw_values(
        self,
        template: CompiledTemplate,
        binding: Binding,
        trees: dict[int, JoinTree],
        rng: random.Random,
    ) -> None:
        """Draw every literal; equalities of one SELECT come from rows that join each other."""
        rows: dict[int, dict[str, int]] = {}
        scope_of = {
            part.slot: part.scope
            for part in reversed(template.parts)
            if isinstance(part, ValueMention)
        }
        used: dict[tuple[int, str], set[str]] = {}
        for slot in template.values.values():
            if slot.operation == "count":
                binding.values[slot.name] = str(rng.choice(_COUNTS))
                continue
            if slot.operation == "limit":
                binding.values[slot.name] = str(rng.choice(_LIMITS))
                continue
            table = binding.tables[template.columns[slot.column].table]
            column = binding.columns[slot.column]
            scope = scope_of[slot.name]
            before = used.setdefault((scope, slot.column), set())
            if slot.operation == "=":
                value = None
                if not before:
                    row = self._row(table, rows.setdefault(scope, {}), trees.get(scope), rng)
                    value = self.values.rows(table)[row][self.values.position(table, column)]
                text = self._existing(table, column, value, before, rng)
            else:
                text = self._bound(slot, table, column, binding, template, rng)
            before.add(text)
            binding.values[slot.name] = text

    def _existing(
        self, table: str, column: str, value: object, before: set[str], rng: random.Random
    ) -> str:
        for _ in range(6):
            if isinstance(value, str | int | float):
                text = literal(value)
                if text not in before and len(text) <= 62 and text.isprintable() and text != "''":
                    return text
            value = self.values.draw(table, column, rng)
        raise FillError("no value fits")

    def _row(
        self, table: str, known: dict[str, int], tree: JoinTree | None, rng: random.Random
    ) -> int:
        """A row of a table that joins the rows already chosen in this SELECT, where one does."""
        if table not in known:
            sample = self.values.rows(table)
            if not sample:
                raise FillError("no value fits")
            known[table] = rng.randrange(len(sample))
            if tree is not None:
                self._follow(tree, known, rng)
        return known[table]

    def _follow(self, tree: JoinTree, known: dict[str, int], rng: random.Random) -> None:
        growing = True
        while growing:
            growing = False
            for join in tree.joins:
                condition = join[0]
                ends = (
                    (condition.table, condition.column),
                    (condition.other, condition.other_column),
                )
                for (table, column), (other, other_column) in (ends, ends[::-1]):
                    if table not in known or other in known:
                        continue
                    row = self.values.rows(table)[known[table]]
                    value = row[self.values.position(table, column)]
                    matches = self._index(other, other_column).get(value)
                    if matches:
                        known[other] = rng.choice(matches)
                        growing = True

    def _index(self, table: str, column: str) -> dict[object, list[int]]:
        key = (table, column)
        if key not in self._rows_by_value:
            position = self.values.position(table, column)
            index: dict[object, list[int]] = {}
            for number, row in enumerate(self.values.rows(table)):
                if row[position] is not None:
                    index.setdefault(row[position], []).append(number)
            self._rows_by_value[key] = index
        return self._rows_by_value[key]

    def _bound(
        self,
        slot: ValueSlot,
        table: str,
        column: str,
        binding: Binding,
        template: CompiledTemplate,
        rng: random.Random,
    ) -> str:
        if slot.operation in ("contains", "starts", "ends"):
            return self._pattern(slot.operation, table, column, rng)
        distinct = self.values.distinct(table, column)
        if len(distinct) < 2:
            raise FillError("no value fits")
        last = len(distinct) - 1
        if slot.operation == "low":
            return literal(distinct[rng.randrange(0, max(1, last * 2 // 3))])
        if slot.operation == "high":
            for other in template.values.values():
                if other.operation == "low" and other.column == slot.column:
                    texts = [literal(value) for value in distinct]
                    low = texts.index(binding.values[other.name])
                    return texts[rng.randint(low + 1, last)]
        share = 0.1 + 0.8 * rng.random()  # quantiles away from the ends keep both sides filled
        index = min(last - 1, max(1, int(share * last))) if last > 1 else rng.randint(0, 1)
        value = distinct[index]
        if slot.operation == "sum" and not isinstance(value, str):
            value = value * rng.choice((1, 2, 3))
        return literal(value)

    def _pattern(self, operation: str, table: str, column: str, rng: random.Random) -> str:
        for _ in range(6):
            value = self.values.draw(table, column, rng)
            words = str(value).split() if value is not None else []
            if not words or any(sign in str(value) for sign in "%_'"):
                continue
            if operation == "contains":
                word = rng.choice(words)
                if len(word) > 4 and rng.random() < 0.5:
                    start = rng.randrange(0, len(word) - 3)
                    word = word[start : start + rng.randint(3, 4)]
                return f"'%{word}%'"
            if operation == "starts":
                word = words[0] if rng.random() < 0.5 else words[0][0]
                return f"'{word}%'"
            word = words[-1] if rng.random() < 0.5 else words[-1][-1]
            return f"'%{word}'"
        raise FillError("no value fits")
