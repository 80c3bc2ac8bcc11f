"""One style of SQL text: printing, normalising any query to that style, and canonical forms."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.generators.sqlite import SQLiteGenerator

from spftcore.databases import Database
from spftcore.synthesis.resolve import Resolved, ResolveError, Scope, Source, Use, resolve

# SQLite's own keywords that cannot stand as a bare name (its parser falls back to a name for
# the others), and a few that sqlglot's parser wants quoted.
_RESERVED_TEXT = """
    add all alter and as asc autoincrement between by case cast check collate commit
    constraint create cross current_date current_time current_timestamp default deferrable
    delete desc distinct drop else end escape except exists false foreign from full glob
    group having if in index inner insert intersect into is isnull join left like limit
    natural not notnull null offset on or order outer over primary raise references regexp
    returning right rollback select set table then to transaction true union unique update
    using values when where window with
"""
RESERVED = frozenset(_RESERVED_TEXT.split())
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_QUOTED = re.compile(r"""("(?:[^"]|"")*"|'(?:[^']|'')*')""")
_NUMERIC = re.compile(r"[+-]?\d+(\.\d+)?\Z")

# What reading or printing a query may end with: sqlglot recurses once per level of a query.
UNREADABLE = (ResolveError, SqlglotError, RecursionError)

# Left alone when names are unknown: a function's name printed by sqlglot for SQLite's own.
_SQLITE_NAMES = {"SUBSTRING": "substr", "CHAR_LENGTH": "length"}


class _PlainGenerator(SQLiteGenerator):
    """SQLite text as people write it: `x not in (…)`, `x is not null`, `!=`, `substr`."""

    def not_sql(self, expression: exp.Not) -> str:
        inner = expression.this
        if isinstance(inner, exp.Is | exp.In | exp.Between):
            text: str = self.sql(inner)
            left: str = self.sql(inner, "this")
            rest = text[len(left) + 1 :]
            if isinstance(inner, exp.Is):
                return f"{left} IS NOT {rest[3:]}"
            return f"{left} NOT {rest}"
        return f"NOT {self.sql(inner)}"

    def neq_sql(self, expression: exp.NEQ) -> str:
        return str(self.binary(expression, "!="))

    def exists_sql(self, expression: exp.Exists) -> str:
        return f"EXISTS ({self.sql(expression, 'this')})"

    def function_fallback_sql(self, expression: exp.Func) -> str:
        name = _SQLITE_NAMES.get(expression.sql_name())
        if name is None:
            return str(super().function_fallback_sql(expression))
        return str(self.func(name, *expression.flatten()))


def print_sql(expression: exp.Expr) -> str:
    """Print a tree in the one style of this package.

    Lower-case keywords and functions; names bare where SQLite lets them be, otherwise in double
    quotes; strings in single quotes; `!=`, `not in`, `is not null`; no `asc`.
    """
    generator = _PlainGenerator(
        dialect="sqlite", identify=True, normalize_functions="lower", comments=False
    )
    # With every name quoted, whatever is outside quotes is keyword, function or number.
    parts = _QUOTED.split(generator.generate(expression))
    for index, part in enumerate(parts):
        if index % 2 == 0:
            parts[index] = part.lower()
        elif part[0] == '"':
            parts[index] = identifier(part[1:-1].replace('""', '"'))
    return "".join(parts)


def identifier(name: str) -> str:
    """A name as it stands in SQL: bare where that is safe, otherwise in double quotes."""
    if _PLAIN_NAME.match(name) and name.lower() not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def normalise_sql(sql: str, database: Database) -> str:
    """Print any query in the one style, with the same result; unchanged where that is not sure.

    Names get the schema's own case; columns are bare where one table is read and qualified by
    table names otherwise (aliases `t1`, `t2`, … only where one table is read twice); join
    conditions stand beside the table they join.
    """
    try:
        return print_sql(styled(sql, database).tree)
    except UNREADABLE:
        return sql


@lru_cache(maxsize=65_536)  # every round asks again for what all rounds before have kept
def canonical(sql: str, database: Database | None = None) -> str:
    """A text that is equal for queries which differ only in how they are written.

    Case, quotes, white space, aliases, the order of inner joins, of AND and OR conditions, of
    IN lists and GROUP BY terms, the sides of `=`, and a number written as a string make no
    difference; values do. A query that does not parse gives its lower-case words.
    """
    try:
        resolved = styled(sql, database)
        for scope in reversed(resolved.scopes):
            _canonical_joins(scope)
        return _lower_outside_strings(print_sql(_sorted(resolved.tree)))
    except UNREADABLE:
        if database is not None:
            return canonical(sql)
        return " ".join(sql.lower().rstrip("; \n").split())


def styled(sql: str, database: Database | None) -> Resolved:
    """Resolve a query and rewrite its tree into the one style. Raises ResolveError."""
    resolved = resolve(sql, database)
    for scope in resolved.scopes:
        _refuse_empty_names(scope)
        spread_join_conditions(scope)
    _choose_names(resolved, database)
    for scope in resolved.scopes:
        for use in scope.uses:
            _rename(use)
        for ordered in scope.select.find_all(exp.Ordered):
            if ordered.args.get("desc") is False:
                ordered.set("desc", None)
    return resolved


def _refuse_empty_names(scope: Scope) -> None:
    """SQLite knows a table or column named by the empty string; sqlglot takes it for none."""
    names = [source.table.name for source in scope.sources if source.table is not None]
    names += [use.base[1].name for use in scope.uses if use.base is not None]
    if not all(names):
        raise ResolveError("a table or column named by the empty string")


def conjuncts(condition: exp.Expr | None) -> list[exp.Expr]:
    """The conditions joined by AND at the top of a condition."""
    if condition is None or (isinstance(condition, exp.Boolean) and condition.this):
        return []
    if isinstance(condition, exp.Paren) and isinstance(condition.this, exp.And):
        return conjuncts(condition.this)
    if isinstance(condition, exp.And):
        return conjuncts(condition.left) + conjuncts(condition.right)
    return [condition]


def conjunction(conditions: list[exp.Expr]) -> exp.Expr | None:
    """The conditions joined by AND, or None for none."""
    whole: exp.Expr | None = None
    for condition in conditions:
        if isinstance(condition, exp.Or):
            condition = exp.Paren(this=condition)
        whole = condition if whole is None else exp.And(this=whole, expression=condition)
    return whole


def inner_joins_only(select: exp.Select) -> bool:
    """Whether all joins of a SELECT are inner or cross joins."""
    return all(
        not join.side and join.kind in ("", "INNER", "CROSS")
        for join in select.args.get("joins") or []
    )


def is_join_condition(condition: exp.Expr, scope: Scope) -> bool:
    """Whether a condition equates columns of two sources of this SELECT."""
    if not isinstance(condition, exp.EQ):
        return False
    ends = [_own_source(condition.this, scope), _own_source(condition.expression, scope)]
    return None not in ends and ends[0] is not ends[1]


def _own_source(node: exp.Expr, scope: Scope) -> Source | None:
    if not isinstance(node, exp.Column):
        return None
    for use in scope.uses:
        if use.node is node:
            return use.source if use.owner is scope else None
    return None


def spread_join_conditions(scope: Scope) -> None:
    """Put each join condition beside the first join that has all its tables, in place.

    Spider writes `a join b join c on … and …` and `from a, b where a.x = b.x`; for inner joins
    all these mean the same.
    """
    select = scope.select
    joins = select.args.get("joins") or []
    if not inner_joins_only(select):
        for join in joins:
            if join.kind in ("OUTER", "INNER"):  # `left outer join` is `left join`
                join.set("kind", None)
        return
    if not joins:
        return
    position = {id(source): index for index, source in enumerate(scope.sources)}
    by_node = {id(use.node): use for use in scope.uses}
    placed: list[list[exp.Expr]] = [[] for _ in joins]
    kept: list[exp.Expr] = []
    where = select.args.get("where")
    on = [part for join in joins for part in conjuncts(join.args.get("on"))]
    moved = [
        part
        for part in conjuncts(where.this if where is not None else None)
        if is_join_condition(part, scope)
    ]
    for part in on + moved:
        used = [by_node.get(id(column)) for column in part.find_all(exp.Column)]
        places = [
            position[id(use.source)]
            for use in used
            if use is not None and use.owner is scope and use.source is not None
        ]
        if not places or part.find(exp.Query) is not None:
            kept.append(part)
            continue
        if is_join_condition(part, scope):
            left, right = (by_node[id(side)] for side in (part.this, part.expression))
            if position[id(left.source)] > position[id(right.source)]:
                left_node, right_node = part.this, part.expression
                part.set("this", right_node)
                part.set("expression", left_node)
        placed[max(0, max(places) - 1)].append(part)
    if where is not None and moved:
        rest = [part for part in conjuncts(where.this) if part not in moved]
        kept = rest + kept
        select.set("where", None)
    elif kept and where is not None:
        kept = conjuncts(where.this) + kept
    for join, parts in zip(joins, placed, strict=True):
        condition = conjunction(parts)
        join.set("on", condition)
        join.set("kind", None if condition is not None else "CROSS")
    if kept:
        select.set("where", exp.Where(this=conjunction(kept)))


def _choose_names(resolved: Resolved, database: Database | None) -> None:
    """Give every source the name it is printed with: the table's own, or t1, t2, … ."""
    clashing: set[int] = set()
    for scope in resolved.scopes:
        counts = Counter(_plain_name(source).lower() for source in scope.sources)
        clashing |= {
            id(source) for source in scope.sources if counts[_plain_name(source).lower()] > 1
        }
        for use in scope.uses:
            if use.owner is None or use.owner is scope or use.source is None:
                continue
            for between in scope.ancestors():  # a correlated name must not be shadowed
                if between is use.owner:
                    break
                for source in between.sources:
                    if _plain_name(source).lower() == _plain_name(use.source).lower():
                        clashing |= {id(source), id(use.source)}
    taken = {table.name.lower() for table in database.tables} if database is not None else set()
    taken |= {_plain_name(source).lower() for scope in resolved.scopes for source in scope.sources}
    number = 0
    for scope in resolved.scopes:
        for source in scope.sources:
            source.alias = _plain_name(source)
            if id(source) in clashing and isinstance(source.node.this, exp.Identifier):
                number += 1
                while f"t{number}" in taken:
                    number += 1
                source.alias = f"t{number}"
            _print_source(source)


def _plain_name(source: Source) -> str:
    if source.table is not None:
        return source.table.name
    if isinstance(source.node, exp.Table) and isinstance(source.node.this, exp.Identifier):
        return source.node.name
    return source.name


def _print_source(source: Source) -> None:
    node = source.node
    if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
        return  # a derived table or a table-valued function keeps the name it has
    plain = _plain_name(source)
    node.set("this", exp.to_identifier(plain))
    alias = source.alias if source.alias.lower() != plain.lower() else ""
    node.set("alias", exp.TableAlias(this=exp.to_identifier(alias)) if alias else None)


def _rename(use: Use) -> None:
    node = use.node
    if use.source is None or use.owner is None:
        return
    if use.base is not None and use.source.table is not None:
        node.set("this", exp.to_identifier(use.base[1].name))
    star = isinstance(node.this, exp.Star)
    bare = len(use.owner.sources) == 1 and use.owner is use.scope
    if bare and star:
        node.replace(exp.Star())
    elif bare or not use.source.alias:
        node.set("table", None)
    else:
        node.set("table", exp.to_identifier(use.source.alias))


def _canonical_joins(scope: Scope) -> None:
    """Fold the conditions of inner joins into WHERE and sort the sources, in place."""
    select = scope.select
    joins = select.args.get("joins") or []
    if not joins or not inner_joins_only(select):
        return
    where = select.args.get("where")
    conditions = conjuncts(where.this if where is not None else None)
    for join in joins:
        conditions += conjuncts(join.args.get("on"))
    sources = [select.args["from_"].this, *(join.this for join in joins)]
    sources.sort(key=print_sql)
    select.set("from_", exp.From(this=sources[0]))
    select.set("joins", [exp.Join(this=source) for source in sources[1:]])
    whole = conjunction(conditions)
    select.set("where", exp.Where(this=whole) if whole is not None else None)


def _sorted(node: exp.Expr) -> exp.Expr:
    """Sort what may stand in any order, from the leaves up."""
    for key, value in list(node.args.items()):
        if isinstance(value, exp.Expr):
            node.set(key, _sorted(value))
        elif isinstance(value, list):
            node.set(key, [_sorted(v) if isinstance(v, exp.Expr) else v for v in value])
    if isinstance(node, exp.And | exp.Or):
        parts = sorted(_flatten(node, type(node)), key=print_sql)
        whole = parts[0]
        for part in parts[1:]:
            whole = type(node)(this=whole, expression=part)
        return whole
    if isinstance(node, exp.EQ | exp.NEQ):
        left, right = node.this, node.expression
        constant = isinstance(right, exp.Literal | exp.Query)
        if isinstance(left, exp.Literal) or (not constant and print_sql(right) < print_sql(left)):
            node.set("this", right)
            node.set("expression", left)
    elif isinstance(node, exp.GT | exp.GTE) and isinstance(node.this, exp.Literal):
        mirrored = exp.LT if isinstance(node, exp.GT) else exp.LTE
        return mirrored(this=node.expression, expression=node.this)
    elif isinstance(node, exp.In | exp.Group):
        if all(isinstance(item, exp.Literal | exp.Column) for item in node.expressions):
            node.set("expressions", sorted(node.expressions, key=print_sql))
    elif isinstance(node, exp.Literal) and _NUMERIC.match(node.this):
        value = node.this.lstrip("+")
        if "." in value:
            value = value.rstrip("0").rstrip(".")
        return exp.Literal.number(value)
    return node


def _flatten(node: exp.Expr, connector: type[exp.Connector]) -> list[exp.Expr]:
    inner = node.this if isinstance(node, exp.Paren) else node
    if isinstance(inner, connector):
        return _flatten(inner.left, connector) + _flatten(inner.right, connector)
    return [node]


def _lower_outside_strings(text: str) -> str:
    parts = _QUOTED.split(text)
    return "".join(part if part[:1] == "'" else part.lower() for part in parts)


def spoken(literal: str) -> str:
    """A SQL literal as a question writes it: without quotes and without LIKE's wildcards."""
    if literal.startswith("'"):
        return literal[1:-1].replace("''", "'").strip("%")
    return literal
