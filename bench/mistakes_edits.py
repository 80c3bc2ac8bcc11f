"""Changes that each put one known mistake into a query, and ways to write a query otherwise."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from sqlglot import exp

from spftcore.databases import Database
from spftcore.synthesis.sql_text import print_sql

Edit = Callable[[exp.Query, Database, random.Random], None]


class NotHere(Exception):
    """The query has no place for the change."""


def pick(draw: random.Random, found: Iterator[Any] | list[Any]) -> Any:
    """One of what was found."""
    choices = list(found)
    if not choices:
        raise NotHere
    return draw.choice(choices)


def outer(tree: exp.Query) -> exp.Select:
    if not isinstance(tree, exp.Select):
        raise NotHere
    return tree


def source_of(select: exp.Select) -> exp.Expr:
    """What the FROM of a query begins with."""
    if select.args.get("from_") is None:
        raise NotHere
    return select.args["from_"].this


def comparisons(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Conditions outside of joins."""
    for node in tree.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like):
        join = node.find_ancestor(exp.Join, exp.Select)
        if not isinstance(join, exp.Join):
            yield node


def value(tree: exp.Query, _: Database, draw: random.Random) -> None:
    sides = [side for c in comparisons(tree) for side in (c.expression,)]
    literal = pick(draw, [side for side in sides if isinstance(side, exp.Literal)])
    if literal.is_string:
        literal.replace(exp.Literal.string(literal.this + "x"))
    else:
        literal.replace(exp.Literal.number(f"{literal.this}7"))


def other_column(node: exp.Column, database: Database, draw: random.Random) -> None:
    """Another column of the same table in a node's place."""
    select = node.find_ancestor(exp.Select)
    name = node.table
    tables = {t.alias_or_name.lower(): t.name for t in select.find_all(exp.Table)}
    if not name:
        name = source_of(select).alias_or_name
    table = database.find(tables.get(name.lower(), ""))
    if table is None:
        raise NotHere
    column = pick(draw, [c for c in table.columns if c.name.lower() != node.name.lower()])
    node.set("this", exp.to_identifier(column.name, quoted=True))


def column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    select = outer(tree)
    other_column(
        pick(draw, [p for p in select.expressions if isinstance(p, exp.Column)]), database, draw
    )


def condition_column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    sides = [c.this for c in comparisons(tree) if isinstance(c.this, exp.Column)]
    other_column(pick(draw, sides), database, draw)


def operator(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, [c for c in comparisons(tree) if not isinstance(c, exp.Like)])
    kinds = [k for k in (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE) if k is not type(node)]
    node.replace(draw.choice(kinds)(this=node.this.copy(), expression=node.expression.copy()))


def condition(tree: exp.Query, _: Database, draw: random.Random) -> None:
    """One condition less."""
    places = [
        n
        for n in tree.find_all(exp.And)
        if not isinstance(n.parent, exp.Join) and n.find(exp.Query) is None
    ]
    places += [n for n in tree.find_all(exp.Where, exp.Having) if not n.find(exp.And, exp.Query)]
    node = pick(draw, places)
    if isinstance(node, exp.And):
        node.replace(draw.choice([node.left, node.right]).copy())
    else:
        node.pop()


def connector(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, [n for n in tree.find_all(exp.And, exp.Or) if in_where(n)])
    kind = exp.Or if isinstance(node, exp.And) else exp.And
    node.replace(exp.Paren(this=kind(this=node.left.copy(), expression=node.right.copy())))


def in_where(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.Where | exp.Having)


def aggregate(tree: exp.Query, _: Database, draw: random.Random) -> None:
    kinds = (exp.Sum, exp.Avg, exp.Min, exp.Max)
    node = pick(draw, tree.find_all(*kinds))
    kind = draw.choice([k for k in kinds if k is not type(node)])
    node.replace(kind(this=node.this.copy()))


def count_column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    """`count(*)` as the sum of a column."""
    counts = [n for n in tree.find_all(exp.Count) if isinstance(n.this, exp.Star)]
    node = pick(draw, [n for n in counts if n.find_ancestor(exp.Order, exp.Select).key == "select"])
    select = node.find_ancestor(exp.Select)
    source = source_of(select)
    table = database.find(source.name) if isinstance(source, exp.Table) else None
    if table is None:
        raise NotHere
    name = pick(draw, list(table.columns)).name
    node.replace(
        exp.Sum(this=exp.column(exp.to_identifier(name, quoted=True), source.alias_or_name))
    )


def grouping(tree: exp.Query, database: Database, draw: random.Random) -> None:
    group = outer(tree).args.get("group")
    if group is None:
        raise NotHere
    columns = [c for c in group.expressions if isinstance(c, exp.Column)]
    if draw.random() < 0.5 and not tree.args.get("having"):
        group.pop()
    else:
        other_column(pick(draw, columns), database, draw)


def order(tree: exp.Query, database: Database, draw: random.Random) -> None:
    terms = list(tree.find_all(exp.Ordered))
    node = pick(draw, terms)
    if draw.random() < 0.5:
        node.set("desc", not node.args.get("desc"))
    else:
        node.parent.pop()


def limit(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, tree.find_all(exp.Limit))
    if draw.random() < 0.5:
        node.pop()
    else:
        node.set("expression", exp.Literal.number(int(node.expression.name) + 1))


def distinct(tree: exp.Query, _: Database, draw: random.Random) -> None:
    select = outer(tree)
    select.set("distinct", None if select.args.get("distinct") else exp.Distinct())


def count_distinct(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, [n for n in tree.find_all(exp.Count) if not isinstance(n.this, exp.Star)])
    if isinstance(node.this, exp.Distinct):
        node.set("this", node.this.expressions[0])
    else:
        node.set("this", exp.Distinct(expressions=[node.this]))


def missing_column(tree: exp.Query, _: Database, draw: random.Random) -> None:
    outputs = outer(tree).expressions
    if len(outputs) < 2:
        raise NotHere
    draw.choice(outputs).pop()


def extra_column(tree: exp.Query, database: Database, draw: random.Random) -> None:
    select = outer(tree)
    source = source_of(select)
    table = database.find(source.name) if isinstance(source, exp.Table) else None
    if table is None:
        raise NotHere
    name = pick(draw, list(table.columns)).name
    new = exp.column(exp.to_identifier(name, quoted=True), source.alias_or_name)
    select.expressions.insert(draw.randrange(len(select.expressions) + 1), new)
    select.set("expressions", select.expressions)


def turned_columns(tree: exp.Query, _: Database, draw: random.Random) -> None:
    outputs = outer(tree).expressions
    if len(outputs) < 2:
        raise NotHere
    tree.set("expressions", [*outputs[1:], outputs[0]])


def set_kind(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, tree.find_all(exp.SetOperation))
    kind = draw.choice(
        [k for k in (exp.Union, exp.Intersect, exp.Except) if not isinstance(node, k)]
    )
    new = kind(this=node.this.copy(), expression=node.expression.copy(), distinct=True)
    for name in ("order", "limit"):
        new.set(name, node.args.get(name))
    if node is tree:
        raise Replaced(new)
    node.replace(new)


def set_side(tree: exp.Query, _: Database, draw: random.Random) -> None:
    node = pick(draw, tree.find_all(exp.SetOperation))
    if node is tree:
        raise Replaced(draw.choice([node.this, node.expression]).copy())
    node.replace(node.this.copy())


class Replaced(Exception):
    """The whole query is another."""


def join_condition(tree: exp.Query, database: Database, draw: random.Random) -> None:
    on = pick(draw, [j.args["on"] for j in tree.find_all(exp.Join) if j.args.get("on")])
    other_column(pick(draw, on.find_all(exp.Column)), database, draw)


def join_dropped(tree: exp.Query, _: Database, draw: random.Random) -> None:
    choices = []
    for join in tree.find_all(exp.Join):
        select = join.parent
        name = join.this.alias_or_name.lower()
        used = [
            c
            for c in select.find_all(exp.Column)
            if c.table.lower() == name and c.find_ancestor(exp.Join) is not join
        ]
        if not used and len(select.args["joins"]) > 1:
            choices.append(join)
    pick(draw, choices).pop()


def join_free(tree: exp.Query, _: Database, draw: random.Random) -> None:
    """A join without its condition."""
    join = pick(draw, [j for j in tree.find_all(exp.Join) if j.args.get("on")])
    join.set("on", None)
    join.set("kind", "CROSS")


def join_left(tree: exp.Query, _: Database, draw: random.Random) -> None:
    join = pick(draw, [j for j in tree.find_all(exp.Join) if j.args.get("on") and not j.side])
    join.set("side", "LEFT")


def table(tree: exp.Query, database: Database, draw: random.Random) -> None:
    """Another table that has the columns the query uses."""
    select = outer(tree)
    source = source_of(select)
    if select.args.get("joins") or not isinstance(source, exp.Table):
        raise NotHere
    names = {
        c.name.lower() for c in select.find_all(exp.Column) if not isinstance(c.this, exp.Star)
    }
    fits = [
        t
        for t in database.tables
        if t.name.lower() != source.name.lower() and all(t.find(name) for name in names)
    ]
    source.set("this", exp.to_identifier(pick(draw, fits).name, quoted=True))


def nesting(tree: exp.Query, _: Database, draw: random.Random) -> None:
    """The condition that holds a query inside is left away."""
    where = outer(tree).args.get("where")
    if where is None or where.find(exp.Query) is None:
        raise NotHere
    if isinstance(where.this, exp.And):
        keep = [s for s in (where.this.left, where.this.right) if s.find(exp.Query) is None]
        where.set("this", pick(draw, keep).copy())
    else:
        where.pop()


# What is changed, and the class it should be named by.
EDITS: tuple[tuple[str, str, Edit], ...] = (
    ("value", "value", value),
    ("result column", "column", column),
    ("column of a condition", "column", condition_column),
    ("operator", "condition", operator),
    ("condition left away", "condition", condition),
    ("AND for OR, OR for AND", "condition", connector),
    ("function", "aggregate", aggregate),
    ("sum for count(*)", "aggregate", count_column),
    ("grouping", "grouping", grouping),
    ("order", "order", order),
    ("limit", "limit", limit),
    ("DISTINCT", "distinct", distinct),
    ("count(DISTINCT)", "distinct", count_distinct),
    ("column left away", "missing columns", missing_column),
    ("column added", "extra columns", extra_column),
    ("columns turned", "order of columns", turned_columns),
    ("set operation", "set operation", set_kind),
    ("one side of a set operation", "set operation", set_side),
    ("column of a join", "join", join_condition),
    ("join left away", "join", join_dropped),
    ("join without condition", "join", join_free),
    ("LEFT JOIN", "join", join_left),
    ("table", "table", table),
    ("inner query left away", "nesting", nesting),
)

BROKEN = (
    ("SELECT misspelt", "syntax error", lambda sql, d: "SELEC" + sql[6:]),
    ("bracket opened", "syntax error", lambda sql, d: sql + " and ("),
    ("unknown table", "no such table", lambda sql, d: f"select * from nowhere where 1 in ({sql})"),
    (
        "unknown column",
        "no such column",
        lambda sql, d: f"select nothing_ from ({sql})",
    ),
    (
        "unknown function",
        "no such function",
        lambda sql, d: f"select year(1) from ({sql})",
    ),
    (
        "aggregate in WHERE",
        "misplaced aggregate",
        lambda sql, d: f"select 1 from ({sql}) where max(1) > 0",
    ),
    ("write", "not allowed", lambda sql, d: f"delete from {d.tables[0].name}"),
    ("nothing", "no SQL", lambda sql, d: " "),
)


def written_otherwise(tree: exp.Query, draw: random.Random) -> str:
    """The same meaning in other words."""
    tree = tree.copy()
    for node in list(tree.find_all(exp.Between)):
        node.replace(
            exp.Paren(
                this=exp.And(
                    this=exp.LTE(this=node.args["low"].copy(), expression=node.this.copy()),
                    expression=exp.LTE(this=node.this.copy(), expression=node.args["high"].copy()),
                )
            )
        )
    for node in list(tree.find_all(exp.And, exp.Or)):
        left, right = node.this, node.expression
        node.set("this", right)
        node.set("expression", left)
    for node in list(tree.find_all(exp.GT)):
        node.replace(exp.LT(this=node.expression.copy(), expression=node.this.copy()))
    for node in list(tree.find_all(exp.EQ)):
        node.replace(exp.EQ(this=node.expression.copy(), expression=node.this.copy()))
    for select in list(tree.find_all(exp.Select)):
        joins = select.args.get("joins") or []
        tables = [select.args["from_"].this, *(j.this for j in joins)] if joins else []
        if (
            not tables
            or any(j.side for j in joins)
            or not all(
                isinstance(t, exp.Table) and isinstance(t.this, exp.Identifier) for t in tables
            )
        ):
            continue
        conditions = [j.args["on"] for j in joins if j.args.get("on")]
        where = select.args.get("where")
        conditions += [where.this] if where else []
        draw.shuffle(tables)
        select.set("from_", exp.From(this=tables[0]))
        select.set("joins", [exp.Join(this=t) for t in tables[1:]])
        if conditions:
            select.set("where", exp.Where(this=exp.and_(*conditions)))
    return print_sql(tree)
