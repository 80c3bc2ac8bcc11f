"""What the gold queries say about the data: compared literals, and columns that must share values.

Names are resolved against the schema before anything is read from a query, because a string in
double quotes, as Spider writes them, is a column to a parser and a string to SQLite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from spftcore.verify.families.schema import Schema, TableRule

Place = tuple[str, int]  # lower-case table, position of the column
Constant = str | int | float

_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is)


class UnreadableGold(ValueError):
    """The parser does not understand the query, although SQLite may."""


@dataclass
class Gold:
    """One gold query.

    `compared` holds (column, literal, whether it is a LIKE pattern); `linked` pairs of columns
    that the query equates.
    """

    sql: str
    tree: exp.Query
    compared: list[tuple[Place, Constant, bool]] = field(default_factory=list)
    linked: list[tuple[Place, Place]] = field(default_factory=list)
    tables: tuple[str, ...] = ()


def read_gold(sql: str, schema: Schema) -> Gold:
    """Parse a gold and find the columns behind its names. Raises UnreadableGold."""
    tree = parse(sql)
    strings_from_names(tree, schema)
    places = {id(node): column_place(node, schema) for node in tree.find_all(exp.Column)}
    gold = Gold(sql, tree)
    gold.tables = tuple(
        dict.fromkeys(t.name.lower() for t in tree.find_all(exp.Table) if _rule(t, schema))
    )
    for node in tree.walk():
        if isinstance(node, _COMPARISONS):
            _compare(gold, places, [node.this], [node.expression], False)
            left, right = (_lone(places, side) for side in (node.this, node.expression))
            if left and right and left != right:
                gold.linked.append((left, right))
        elif isinstance(node, exp.Like | exp.ILike | exp.Glob):
            _compare(gold, places, [node.this], [node.expression], True)
        elif isinstance(node, exp.Between):
            _compare(gold, places, [node.this], [node.args["low"], node.args["high"]], False)
        elif isinstance(node, exp.In):
            _compare(gold, places, [node.this], node.expressions, False)
            query = node.args.get("query")
            if query is not None:
                _link(gold, places, [node.this], _outputs(query))
        elif isinstance(node, exp.SetOperation):
            _link(gold, places, _outputs(node.left), _outputs(node.right))
    return gold


def parse(sql: str) -> exp.Query:
    """One SELECT of SQLite's dialect. Raises UnreadableGold."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="sqlite") if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise UnreadableGold(str(error).splitlines()[0]) from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise UnreadableGold("not one SELECT")
    return trees[0]


def strings_from_names(tree: exp.Query, schema: Schema) -> None:
    """Turn names in double quotes that name no column of the query into strings, in place."""
    known = {alias.alias.lower() for alias in tree.find_all(exp.Alias)}
    for cte in tree.find_all(exp.TableAlias):
        known.update(column.name.lower() for column in cte.args.get("columns") or ())
    for table in tree.find_all(exp.Table):
        rule = _rule(table, schema)
        if rule is not None:
            known.update(column.name.lower() for column in rule.columns)
    for node in list(tree.find_all(exp.Column)):
        name = node.this
        quoted = isinstance(name, exp.Identifier) and name.quoted and not node.table
        if quoted and name.name.lower() not in known:
            node.replace(exp.Literal.string(name.name))


def column_place(node: exp.Column, schema: Schema) -> Place | None:
    """The stored column a name means; None for a derived or unknown one."""
    if isinstance(node.this, exp.Star):
        return None
    for _, key, rule in visible(node, schema):
        if node.table and node.table.lower() != _:
            continue
        position = rule.position(node.name)
        if position is not None:
            return key, position
    if not node.table:  # the output of a derived table: the column of that name within it
        root = node.root()
        for table in root.find_all(exp.Table):
            found = _rule(table, schema)
            position = found.position(node.name) if found else None
            if position is not None:
                return table.name.lower(), position
    return None


def visible(node: exp.Expr, schema: Schema) -> Iterator[tuple[str, str, TableRule]]:
    """(name in the query, table, rule) of the stored tables a node may name, inner first."""
    select = node.find_ancestor(exp.Select)
    while select is not None:
        for table in sources(select):
            rule = _rule(table, schema)
            if rule is not None:
                yield table.alias_or_name.lower(), table.name.lower(), rule
        select = select.find_ancestor(exp.Select)


def sources(select: exp.Select) -> list[exp.Table]:
    """The tables named in the FROM and JOIN clauses of one SELECT."""
    found = []
    from_ = select.args.get("from_")
    if from_ is not None:
        found.append(from_.this)
    found.extend(join.this for join in select.args.get("joins") or ())
    return [table for table in found if isinstance(table, exp.Table)]


def constant(node: exp.Expr | None) -> Constant | None:
    """The value of a literal, a sign in front allowed; None for anything else."""
    if isinstance(node, exp.Paren):
        return constant(node.this)
    if isinstance(node, exp.Neg):
        value = constant(node.this)
        return -value if isinstance(value, int | float) else None
    if not isinstance(node, exp.Literal):
        return None
    if node.is_string:
        return str(node.this)
    try:
        number = float(node.this)
    except ValueError:
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _rule(table: exp.Table, schema: Schema) -> TableRule | None:
    return schema.tables.get(table.name.lower())


def _columns(places: dict[int, Place | None], node: exp.Expr) -> list[Place]:
    # A sub-query's own columns are compared inside it, not by what stands around it.
    if isinstance(node, exp.Subquery | exp.Select):
        return [place for place in _outputs_of(places, node) if place]
    found = [places.get(id(column)) for column in node.find_all(exp.Column)]
    return [place for place in found if place]


def _lone(places: dict[int, Place | None], node: exp.Expr) -> Place | None:
    found = _columns(places, node) if not isinstance(node, exp.Literal) else []
    return found[0] if len(found) == 1 else None


def _compare(
    gold: Gold,
    places: dict[int, Place | None],
    one: list[exp.Expr],
    other: list[exp.Expr],
    pattern: bool,
) -> None:
    for left, right in ((one, other), (other, one)):
        for node in left:
            for value in map(constant, right):
                if value is not None:
                    gold.compared += [(place, value, pattern) for place in _columns(places, node)]


def _outputs(node: exp.Expr) -> list[exp.Expr]:
    while isinstance(node, exp.Subquery | exp.SetOperation):
        node = node.this
    return list(node.expressions) if isinstance(node, exp.Select) else []


def _outputs_of(places: dict[int, Place | None], node: exp.Expr) -> list[Place | None]:
    return [place for output in _outputs(node) for place in [_lone(places, output)]]


def _link(
    gold: Gold, places: dict[int, Place | None], one: list[exp.Expr], other: list[exp.Expr]
) -> None:
    for left, right in zip(one, other, strict=False):
        a, b = _lone(places, left), _lone(places, right)
        if a and b and a != b:
            gold.linked.append((a, b))
