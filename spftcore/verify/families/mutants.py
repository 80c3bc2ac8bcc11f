"""Queries that are nearly the gold: one change each, of the kinds that wrong answers show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from spftcore.databases import quote_identifier
from spftcore.verify.families.golds import Gold, column_place, constant, sources, visible
from spftcore.verify.families.schema import Schema
from spftcore.verify.families.values import Space, neighbours

MOST_PER_PLACE = 3  # mutants of one kind at one place of the query

KINDS = (
    "comparison",
    "literal",
    "column",
    "join",
    "distinct",
    "order",
    "aggregate",
    "logic",
    "condition",
    "limit",
    "set operation",
    "grouping",
)


@dataclass(frozen=True)
class Mutant:
    """A changed gold: which kind of change, and the SQL."""

    kind: str
    sql: str


# Yields replacements for one node, each a copy; None stands for dropping it.
_Change = Callable[[exp.Expr], Iterator[exp.Expr | None]]


def mutants(gold: Gold, schema: Schema, space: Space) -> list[Mutant]:
    """All first-order mutants of a gold, in a fixed order, without repetition.

    They may fail to run, or mean the same as the gold: that is for execution to find out.
    """
    writer = _Mutator(gold, schema, space)
    original = render(gold.tree)
    found: dict[str, Mutant] = {}
    for kind, tree in writer.all():
        try:
            sql = render(tree)
        except (ValueError, AttributeError, TypeError):
            continue  # a tree that has lost a part it cannot be written without
        if sql != original:
            found.setdefault(sql, Mutant(kind, sql))
    return list(found.values())


def render(tree: exp.Expr) -> str:
    """SQL text of a tree in SQLite's dialect."""
    return tree.sql(dialect="sqlite", comments=False)


_TURNED: dict[type[exp.Expr], tuple[type[exp.Expr], ...]] = {
    exp.EQ: (exp.NEQ, exp.GTE, exp.LTE),
    exp.NEQ: (exp.EQ,),
    exp.GT: (exp.GTE, exp.LT),
    exp.GTE: (exp.GT, exp.LTE),
    exp.LT: (exp.LTE, exp.GT),
    exp.LTE: (exp.LT, exp.GTE),
}
_AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)
_SETS = (exp.Union, exp.Intersect, exp.Except)


class _Mutator:
    def __init__(self, gold: Gold, schema: Schema, space: Space) -> None:
        self.gold = gold
        self.schema = schema
        self.space = space

    def all(self) -> Iterator[tuple[str, exp.Expr]]:
        changes: tuple[tuple[str, _Change], ...] = (
            ("comparison", self._comparison),
            ("literal", self._literal),
            ("column", self._column),
            ("join", self._join),
            ("distinct", self._distinct),
            ("order", self._order),
            ("aggregate", self._aggregate),
            ("logic", self._logic),
            ("condition", self._condition),
            ("limit", self._limit),
            ("set operation", self._set_operation),
            ("grouping", self._grouping),
        )
        nodes = list(self.gold.tree.walk())
        for kind, change in changes:
            for place, node in enumerate(nodes):
                for number, new in enumerate(change(node)):
                    if number == MOST_PER_PLACE:
                        break
                    yield kind, self._with(place, new)

    def _with(self, place: int, new: exp.Expr | None) -> exp.Expr:
        """A copy of the tree in which the node of that number in its walk is another."""
        tree = self.gold.tree.copy()
        for number, node in enumerate(tree.walk()):
            if number == place:
                if new is None:
                    node.pop()
                elif node is tree:
                    return new
                else:
                    node.replace(new)
                break
        return tree

    def _comparison(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if _joins(node):
            return
        for other in _TURNED.get(type(node), ()):
            yield other(this=node.this.copy(), expression=node.expression.copy())
        if isinstance(node, exp.Not):
            yield node.this.copy()
        elif isinstance(
            node, exp.In | exp.Like | exp.Between | exp.Is | exp.Exists
        ) and not isinstance(node.parent, exp.Not):
            yield exp.Not(this=node.copy())
        if isinstance(node, exp.Between):
            low, high = node.args["low"], node.args["high"]
            yield exp.and_(
                exp.GT(this=node.this.copy(), expression=low.copy()),
                exp.LT(this=node.this.copy(), expression=high.copy()),
            )
        if isinstance(node, exp.Like):
            yield exp.EQ(this=node.this.copy(), expression=node.expression.copy())

    def _literal(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if not isinstance(node, exp.Literal) or node.find_ancestor(exp.Limit, exp.Offset):
            return
        value = constant(node)
        if value is None:
            return
        if isinstance(value, str):
            if isinstance(node.parent, exp.Like):
                wider = f"%{value.strip('%')}%"
                for pattern in (value.removeprefix("%"), value.removesuffix("%"), wider):
                    yield exp.Literal.string(pattern)
                return
            yield from (exp.Literal.string(str(v)) for v in self._other_values(node)[:1])
            yield from (exp.Literal.string(str(v)) for v in neighbours(value)[1:3])
        else:
            yield exp.Literal.number(value + 1)
            yield exp.Literal.number(value - 1)

    def _other_values(self, literal: exp.Expr) -> list[str]:
        """Stored texts of the column that a literal is compared with, but for the literal's."""
        for column in literal.parent.find_all(exp.Column) if literal.parent else ():
            place = column_place(column, self.schema)
            if place in self.space.pools:
                values = self.space.pools[place].values
                return [v for v in values if isinstance(v, str) and v != literal.this]
        return []

    def _column(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star) or _joins(node):
            return
        place = column_place(node, self.schema)
        if place is None or place not in self.space.pools:
            return
        kind = self.space.pools[place].kind
        for name, key, rule in visible(node, self.schema):
            if key != place[0] or (node.table and node.table.lower() != name):
                continue
            # Neighbours in the table first: they are what a reader confuses.
            others = sorted(range(len(rule.columns)), key=lambda i: (abs(i - place[1]), i))
            for i in others:
                if i != place[1] and self.space.pools[key, i].kind == kind:
                    new = node.copy()
                    new.set("this", exp.to_identifier(rule.columns[i].name, quoted=True))
                    yield new
            return

    def _join(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if not isinstance(node, exp.Join):
            return
        turned = node.copy()
        turned.set("side", None if node.side else "LEFT")
        turned.set("kind", None)
        yield turned
        if node.args.get("on") is not None:
            free = node.copy()
            free.set("on", None)
            free.set("side", None)
            yield free
        select = node.parent
        if isinstance(node.this, exp.Table) and isinstance(select, exp.Select):
            name = node.this.alias_or_name.lower()
            outside = [
                column
                for column in select.find_all(exp.Column)
                if column.table.lower() == name and column.find_ancestor(exp.Join) is not node
            ]
            if not outside:
                yield None

    def _distinct(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if isinstance(node, exp.Select) and not _counts_once(node):
            turned = node.copy()
            turned.set("distinct", None if node.args.get("distinct") else exp.Distinct())
            yield turned
        elif isinstance(node, exp.Count) and not isinstance(node.this, exp.Star):
            inner = node.this.copy()
            if isinstance(inner, exp.Distinct):
                yield exp.Count(this=inner.expressions[0])
            else:
                yield exp.Count(this=exp.Distinct(expressions=[inner]))

    def _order(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if isinstance(node, exp.Ordered):
            turned = node.copy()
            turned.set("desc", not node.args.get("desc"))
            turned.set("nulls_first", bool(node.args.get("desc")))
            yield turned
        elif isinstance(node, exp.Order):
            if not isinstance(node.parent, exp.Window):
                yield None
            if len(node.expressions) > 1:
                for dropped in range(len(node.expressions)):
                    fewer = node.copy()
                    fewer.set(
                        "expressions",
                        [e for i, e in enumerate(fewer.expressions) if i != dropped],
                    )
                    yield fewer

    def _aggregate(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if not isinstance(node, _AGGREGATES):
            return
        if isinstance(node, exp.Count) and isinstance(node.this, exp.Star):
            for name, _, rule in visible(node, self.schema):
                # The primary key counts what * counts; another column counts its NULLs out.
                for i, column in enumerate(rule.columns):
                    if i not in rule.primary_key:
                        argument = exp.column(
                            exp.to_identifier(column.name, quoted=True),
                            table=exp.to_identifier(name, quoted=True),
                        )
                        yield exp.Count(this=exp.Distinct(expressions=[argument]))
                        yield exp.Count(this=argument.copy())
                        break
            return
        argument = node.this
        if isinstance(argument, exp.Distinct):
            argument = argument.expressions[0]
        others = {
            exp.Count: (exp.Sum,),
            exp.Sum: (exp.Avg, exp.Count),
            exp.Avg: (exp.Sum, exp.Max),
            exp.Min: (exp.Max, exp.Avg),
            exp.Max: (exp.Min, exp.Sum),
        }
        for other in others[type(node)]:
            yield other(this=argument.copy())

    def _logic(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if isinstance(node, exp.And) and not _joins(node):
            yield exp.paren(exp.Or(this=node.this.copy(), expression=node.expression.copy()))
        elif isinstance(node, exp.Or):
            yield exp.And(this=_bracketed(node.this), expression=_bracketed(node.expression))

    def _condition(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if isinstance(node, exp.And | exp.Or) and not _joins(node):
            yield node.this.copy()
            yield node.expression.copy()
        elif isinstance(node, exp.Where | exp.Having):
            yield None

    def _limit(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if isinstance(node, exp.Limit):
            count = constant(node.expression)
            if isinstance(count, int):
                for other in (count + 1, count - 1):
                    if other > 0:
                        yield exp.Limit(expression=exp.Literal.number(other))
            yield None
        elif isinstance(node, exp.Select) and node.args.get("order") and not node.args.get("limit"):
            yield node.copy().limit(1)

    def _set_operation(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if not isinstance(node, _SETS):
            return
        for kind in _SETS:
            if not isinstance(node, kind):
                turned = kind(this=node.this.copy(), expression=node.expression.copy())
                turned.set("distinct", True)
                for key in ("order", "limit", "with_"):
                    if node.args.get(key):
                        turned.set(key, node.args[key].copy())
                yield turned
        if isinstance(node, exp.Union):
            turned = node.copy()
            turned.set("distinct", not node.args.get("distinct"))
            yield turned
        yield node.this.copy()

    def _grouping(self, node: exp.Expr) -> Iterator[exp.Expr | None]:
        if isinstance(node, exp.Group):
            if node.parent is not None and not node.parent.args.get("having"):
                yield None
            if len(node.expressions) > 1:
                for dropped in range(len(node.expressions)):
                    fewer = node.copy()
                    fewer.set(
                        "expressions",
                        [e for i, e in enumerate(fewer.expressions) if i != dropped],
                    )
                    yield fewer


def stability_probes(gold: Gold, schema: Schema) -> list[str]:
    """Rewritings with the gold's meaning, which give another result only where chance decides.

    To each ORDER BY (and each LIMIT without one) last terms are added that order its ties one way
    and the other; and every table is read in one order and in its reverse, which shows columns
    outside a GROUP BY, `group_concat` and ties that no term reaches.
    """
    found: list[str] = []
    for descending in (False, True):
        tree = gold.tree.copy()
        changed = False
        for select in list(tree.find_all(exp.Select)):
            if select.args.get("order") is None and select.args.get("limit") is None:
                continue
            for term in _last_terms(select, schema):
                ordered = exp.Ordered(this=term, desc=descending, nulls_first=not descending)
                select.order_by(ordered, copy=False)
                changed = True
        if changed:
            found.append(render(tree))
    for direction in ("asc", "desc"):
        tree = gold.tree.copy()
        for table in list(tree.find_all(exp.Table)):
            rule = schema.tables.get(table.name.lower())
            if rule is not None and isinstance(table.parent, exp.From | exp.Join):
                terms = ", ".join(f"{i + 1} {direction}" for i in range(len(rule.columns)))
                # LIMIT -1 keeps SQLite from dropping the ORDER BY of a sub-query.
                source = f"select * from {quote_identifier(rule.name)} order by {terms} limit -1"
                query = sqlglot.parse_one(source, read="sqlite")
                table.replace(
                    exp.Subquery(
                        this=query,
                        alias=exp.TableAlias(
                            this=exp.to_identifier(table.alias_or_name, quoted=True)
                        ),
                    )
                )
        found.append(render(tree))
    return found


def _last_terms(select: exp.Select, schema: Schema) -> list[exp.Expr]:
    terms = list(_output_terms(select))
    if select.args.get("distinct"):
        return terms
    group = select.args.get("group")
    if group is not None:
        return terms + [term.copy() for term in group.expressions]
    return terms + _source_terms(select, schema)


def _output_terms(select: exp.Select) -> Iterator[exp.Expr]:
    for number, output in enumerate(select.expressions, 1):
        inner = output.unalias()
        if isinstance(inner, exp.Star) or (
            isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star)
        ):
            return  # positions after a star are unknown
        yield exp.Literal.number(number)


def _source_terms(select: exp.Select, schema: Schema) -> list[exp.Expr]:
    if any(isinstance(node, exp.AggFunc) for out in select.expressions for node in out.walk()):
        return []
    terms: list[exp.Expr] = []
    for table in sources(select):
        rule = schema.tables.get(table.name.lower())
        for column in rule.columns if rule else ():
            terms.append(
                exp.column(
                    exp.to_identifier(column.name, quoted=True),
                    table=exp.to_identifier(table.alias_or_name, quoted=True),
                )
            )
    return terms


def _counts_once(select: exp.Select) -> bool:
    """Whether DISTINCT cannot matter: under IN, EXISTS or a set operation, or for one row."""
    around = select.parent.parent if isinstance(select.parent, exp.Subquery) else select.parent
    if isinstance(around, exp.In | exp.Exists | exp.Intersect | exp.Except):
        return True
    if isinstance(around, exp.Union) and around.args.get("distinct"):
        return True
    alone = all(isinstance(output.unalias(), exp.AggFunc) for output in select.expressions)
    return alone and not select.args.get("group")


def _bracketed(node: exp.Expr) -> exp.Expr:
    copy = node.copy()
    return exp.paren(copy) if isinstance(copy, exp.Or) else copy


def _joins(node: exp.Expr) -> bool:
    """Whether the node stands in a join's condition."""
    join = node.find_ancestor(exp.Join)
    select = node.find_ancestor(exp.Select)
    return join is not None and join.find_ancestor(exp.Select) is select
