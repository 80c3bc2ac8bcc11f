"""Rendering: a template and what its slots stand for become SQL text."""

from __future__ import annotations

import random

from spftcore.databases import Database
from spftcore.synthesis.extract import Binding, join_graph
from spftcore.synthesis.joins import JoinTree
from spftcore.synthesis.sql_text import identifier
from spftcore.synthesis.templates import (
    ColumnMention,
    CompiledTemplate,
    FromMention,
    StarMention,
    TableMention,
    ValueMention,
)


class FillError(ValueError):
    """A template that this database, or this draw, cannot fill.

    `cause` is short, for counting; `hopeless` says that no database will do.
    """

    def __init__(self, cause: str, hopeless: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hopeless = hopeless


def join_trees(
    template: CompiledTemplate,
    binding: Binding,
    database: Database,
    rng: random.Random | None = None,
) -> dict[int, JoinTree]:
    """The join trees of the FROM clauses a template leaves open, by number of the SELECT.

    Args:
        rng: chooses among equally short join paths; without it the choice is fixed.

    Raises:
        FillError: tables of one FROM clause are not connected by foreign keys.
    """
    trees: dict[int, JoinTree] = {}
    for part in template.parts:
        if isinstance(part, FromMention):
            tables = [binding.tables[instance] for instance in part.instances]
            tree = join_graph(database).tree(tables, rng)
            if tree is None:
                raise FillError("tables not connected")
            trees[part.scope] = tree
    return trees


def render(
    template: CompiledTemplate,
    binding: Binding,
    database: Database,
    trees: dict[int, JoinTree] | None = None,
) -> str:
    """The SQL of a template under a binding, in the style of `normalise_sql`.

    Args:
        trees: the joins to write; by default `join_trees` without chance.

    Raises:
        FillError: tables are not connected, or a join path hides a correlated table.
    """
    if trees is None:
        trees = join_trees(template, binding, database)
    return _Rendering(template, binding, database, trees).text


class _Rendering:
    def __init__(
        self,
        template: CompiledTemplate,
        binding: Binding,
        database: Database,
        trees: dict[int, JoinTree],
    ) -> None:
        self.template = template
        self.binding = binding
        self.trees = trees
        self.sources: dict[int, int] = {}  # number of sources by scope
        for number, scope in enumerate(template.scopes):
            tree = self.trees.get(number)
            self.sources[number] = len(tree.tables) if tree else len(scope.instances)
            self.sources[number] += scope.derived
        self.aliases = self._aliases(database)
        self.text = "".join(self._part(part) for part in template.parts)

    def _aliases(self, database: Database) -> dict[str, str]:
        """t1, t2, … for the copies of tables that are read more than once."""
        copied = {
            instance.split("#")[0]
            for scope in self.template.scopes
            for instance in scope.instances
            if "#" in instance
        }
        taken = {table.name.lower() for table in database.tables}
        aliases: dict[str, str] = {}
        number = 0
        for scope in self.template.scopes:
            for instance in scope.instances:
                if instance.split("#")[0] in copied and instance not in aliases:
                    number += 1
                    while f"t{number}" in taken:
                        number += 1
                    aliases[instance] = f"t{number}"
        return aliases

    def _part(self, part: object) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, ColumnMention):
            return self._column(part)
        if isinstance(part, StarMention):
            table = identifier(self.binding.tables[part.instance.split("#")[0]])
            alone = self.sources[part.scope] == 1
            return "*" if alone else f"{self.aliases.get(part.instance, table)}.*"
        if isinstance(part, ValueMention):
            return self.binding.values[part.slot]
        if isinstance(part, TableMention):
            return self._table(part.instance)
        assert isinstance(part, FromMention)
        tree = self.trees[part.scope]
        words = [identifier(tree.tables[0])]
        for table, conditions in zip(tree.tables[1:], tree.joins, strict=True):
            on = " and ".join(
                f"{identifier(c.table)}.{identifier(c.column)} = "
                f"{identifier(c.other)}.{identifier(c.other_column)}"
                for c in conditions
            )
            words.append(f"join {identifier(table)} on {on}")
        return " ".join(words)

    def _table(self, instance: str) -> str:
        name = identifier(self.binding.tables[instance.split("#")[0]])
        alias = self.aliases.get(instance)
        return f"{name} as {alias}" if alias else name

    def _column(self, mention: ColumnMention) -> str:
        name = identifier(self.binding.columns[mention.slot])
        if mention.bare:
            return name
        scope: int | None = mention.scope
        while scope is not None:
            if mention.instance in self.template.scopes[scope].instances:
                if scope == mention.scope and self.sources[scope] == 1:
                    return name
                if scope != mention.scope:
                    self._refuse_shadow(mention, scope)
                table = identifier(self.binding.tables[mention.instance.split("#")[0]])
                return f"{self.aliases.get(mention.instance, table)}.{name}"
            scope = self.template.scopes[scope].parent
        return name  # a column of a derived table

    def _refuse_shadow(self, mention: ColumnMention, owner: int) -> None:
        """A table on a join path must not hide the outer table that a condition means."""
        if mention.instance in self.aliases:
            return
        table = self.binding.tables[mention.instance]
        scope: int | None = mention.scope
        while scope is not None and scope != owner:
            if scope in self.trees and table in self.trees[scope].tables:
                raise FillError("outer table hidden by a join path")
            scope = self.template.scopes[scope].parent
