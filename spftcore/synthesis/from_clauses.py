"""FROM clauses in one plain form: parentheses, USING, NATURAL and stars over them spelled out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlglot import exp

# Columns of SQLite's table-valued functions. Theirs are the only ones its core has.
TABLE_FUNCTIONS = {
    name: ("key", "value", "type", "atom", "id", "parent", "fullkey", "path")
    for name in ("json_each", "json_tree")
}


class NamedSource(Protocol):
    """What is asked of an entry of FROM (`resolve.Source`)."""

    name: str

    def has(self, column: str) -> bool: ...
    def column_names(self) -> list[str]: ...


def flatten_parentheses(select: exp.Select) -> bool:
    """Take the parentheses off tables and off inner joins in FROM, in place.

    False when an outer join keeps a parenthesised join together: it cannot be written without.
    """
    from_ = select.args.get("from_")
    if from_ is None:
        return True
    joins = select.args.get("joins") or []
    outer = any(join.args.get("side") for join in joins)
    flat: list[exp.Expr] = []
    head, inner = _without_parentheses(from_.this)
    from_.set("this", head)
    if any(join.args.get("side") for join in inner) and joins:
        return False
    flat += inner
    for join in joins:
        table, inner = _without_parentheses(join.this)
        if inner and (
            outer or any(other.args.get("side") for other in inner) or join.args.get("using")
        ):
            return False
        join.set("this", table)
        flat += [join, *inner]
    if flat:
        select.set("joins", flat)
    return True


def _without_parentheses(node: exp.Expr) -> tuple[exp.Expr, list[exp.Expr]]:
    """A table and the joins that stood in parentheses with it."""
    joins: list[exp.Expr] = []
    while isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table | exp.Subquery):
        if node.args.get("alias") is not None:
            break
        joins = [*(node.args.get("joins") or []), *joins]
        node = node.this
    if isinstance(node, exp.Table) and node.args.get("joins"):
        joins = [*node.args["joins"], *joins]
        node.set("joins", None)
    return node, joins


def spell_out_joins(select: exp.Select, sources: Sequence[NamedSource]) -> str:
    """Write USING and NATURAL as ON, and the stars over them as columns, in place.

    Returns why that cannot be done, or ''.
    """
    shared: set[tuple[int, str]] = set()  # columns that a star shows once: (source, name)
    for number, join in enumerate(select.args.get("joins") or [], 1):
        natural = join.method == "NATURAL"
        if not natural and not join.args.get("using"):
            continue
        if join.side in ("RIGHT", "FULL"):
            return "outer join by USING or NATURAL"  # there an unqualified name is a coalesce
        right = sources[number]
        if natural:
            names = [
                name
                for name in right.column_names()
                if any(source.has(name) for source in sources[:number])
            ]
        else:
            names = [column.name for column in join.args["using"]]
        condition: exp.Expr | None = None
        for name in names:
            left = next((source for source in sources[:number] if source.has(name)), None)
            if left is None or not left.name or not right.name or not right.has(name):
                return "join by USING or NATURAL"
            equal = exp.EQ(this=_column(left, name), expression=_column(right, name))
            condition = equal if condition is None else exp.And(this=condition, expression=equal)
            shared.add((number, name.lower()))
        join.set("using", None)
        join.set("method", None)
        join.set("on", condition)
    if shared:
        _spell_out_stars(select, sources, shared)
    return ""


def _spell_out_stars(
    select: exp.Select, sources: Sequence[NamedSource], shared: set[tuple[int, str]]
) -> None:
    projections: list[exp.Expr] = []
    for projection in select.expressions:
        if not isinstance(projection, exp.Star):
            projections.append(projection)
            continue
        for number, source in enumerate(sources):
            projections += [
                _column(source, name)
                for name in source.column_names()
                if (number, name.lower()) not in shared
            ]
    select.set("expressions", projections)


def _column(source: NamedSource, name: str) -> exp.Column:
    return exp.Column(
        this=exp.to_identifier(name, quoted=True), table=exp.to_identifier(source.name, quoted=True)
    )
