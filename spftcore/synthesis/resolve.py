"""Which table and column every name of a query means, as SQLite decides it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from spftcore.databases import Column, Database, Table
from spftcore.synthesis.from_clauses import (
    TABLE_FUNCTIONS,
    flatten_parentheses,
    spell_out_joins,
)

ROWID_NAMES = frozenset(("rowid", "oid", "_rowid_"))


class ResolveError(ValueError):
    """The query cannot be read against the schema; `cause` is a short name for counting."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause, self.detail = cause, detail


@dataclass(eq=False)
class Source:
    """One entry of a FROM clause: a table of the schema, or a derived table or CTE.

    `name` is what the query calls it. `outputs` maps the lower-case names of a derived table's
    columns to the base column behind each, or None; it is empty where they are unknown.
    """

    name: str
    node: exp.Expr
    table: Table | None = None
    outputs: dict[str, tuple[Table, Column] | None] = field(default_factory=dict)
    alias: str = ""  # the name it gets in print, chosen later

    def has(self, column: str) -> bool:
        if self.table is not None:
            return self.table.find(column) is not None
        return column.lower() in self.outputs

    def column_names(self) -> list[str]:
        """The columns in their order, as far as they are known."""
        if self.table is not None:
            return [column.name for column in self.table.columns]
        return list(self.outputs)


@dataclass(eq=False)
class Use:
    """One column mentioned in a query.

    `scope` is the SELECT it stands in, `owner` the SELECT whose FROM brings it (an outer one
    when the mention is correlated), `base` the schema column behind it where there is one.
    """

    node: exp.Column
    scope: Scope
    owner: Scope | None
    source: Source | None
    base: tuple[Table, Column] | None


@dataclass(eq=False)
class Scope:
    """One SELECT with its sources and the columns mentioned directly in it."""

    select: exp.Select
    parent: Scope | None
    sources: list[Source] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)

    def ancestors(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


@dataclass(eq=False)
class Resolved:
    """A parsed query (own copy) and its SELECTs, outer before inner, in the order of the text."""

    tree: exp.Query
    scopes: list[Scope]


def parse(sql: str) -> exp.Query:
    """Parse one SELECT statement of SQLite's dialect. Raises ResolveError."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="sqlite") if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise ResolveError("does not parse", str(error).splitlines()[0]) from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Select | exp.SetOperation):
        raise ResolveError("not one SELECT")
    return trees[0]


def resolve(sql: str, database: Database | None) -> Resolved:
    """Parse a query and find the table and column behind every name in it.

    A name in double quotes that names no column is a string, as in SQLite. Aliases of result
    columns that only ORDER BY, GROUP BY, HAVING or WHERE use are replaced by what they stand
    for. Without a database, names are taken as they are written.

    Raises:
        ResolveError: the query does not parse, or names what the database does not have.
    """
    tree = parse(sql)
    try:
        return _Resolver(database).run(tree)
    except RecursionError:  # one call deep for each level: a sum of 3,000 terms has as many
        raise ResolveError("too deep") from None


class _Resolver:
    def __init__(self, database: Database | None) -> None:
        self.database = database
        self.scopes: list[Scope] = []

    def run(self, tree: exp.Query) -> Resolved:
        self._query(tree, None, {}, keep_aliases=False)
        return Resolved(tree, self.scopes)

    # Output columns of a query by lower-case name, each with its base column where it has one.
    def _query(
        self,
        node: exp.Expr,
        parent: Scope | None,
        ctes: dict[str, dict[str, tuple[Table, Column] | None]],
        keep_aliases: bool,
    ) -> dict[str, tuple[Table, Column] | None]:
        if isinstance(node, exp.Subquery):
            return self._query(node.this, parent, ctes, keep_aliases)
        with_ = node.args.get("with_")
        if with_ is not None:
            ctes = dict(ctes)
            for cte in with_.expressions:
                name = cte.alias.lower()
                listed = [c.name for c in cte.args["alias"].args.get("columns") or []]
                # SQLite lets a CTE refer to itself with or without the word RECURSIVE.
                names = listed or [p.alias_or_name for p in _first_select(cte.this).expressions]
                ctes[name] = {c.lower(): None for c in names}
                outputs = self._query(cte.this, parent, ctes, keep_aliases=True)
                if listed:
                    outputs = dict(zip((c.lower() for c in listed), outputs.values(), strict=False))
                ctes[name] = outputs
        if isinstance(node, exp.SetOperation):
            first = _first_select(node).expressions
            names = [projection.alias_or_name.lower() for projection in first]
            texts = [projection.unalias().sql("sqlite").lower() for projection in first]
            outputs = self._query(node.this, parent, ctes, keep_aliases)
            self._query(node.expression, parent, ctes, keep_aliases)
            if len(first) == 1 and isinstance(first[0], exp.Star):
                names = texts = list(outputs)
            order = node.args.get("order")
            if order is not None:
                _set_order(order, names, texts)
            return outputs
        if isinstance(node, exp.Values):
            return _outputs_of_values(node)
        if not isinstance(node, exp.Select):
            raise ResolveError("unsupported query", node.key)
        return self._select(node, parent, ctes, keep_aliases)

    def _select(
        self,
        select: exp.Select,
        parent: Scope | None,
        ctes: dict[str, dict[str, tuple[Table, Column] | None]],
        keep_aliases: bool,
    ) -> dict[str, tuple[Table, Column] | None]:
        scope = Scope(select, parent)
        self.scopes.append(scope)
        from_ = select.args.get("from_")
        if from_ is None and select.args.get("joins"):
            raise ResolveError("unsupported FROM", "none before a join")
        if not flatten_parentheses(select):
            raise ResolveError("outer join with parentheses")
        nodes = [from_.this] if from_ is not None else []
        for join in select.args.get("joins") or []:
            by_name = join.args.get("using") or join.method
            if by_name and (self.database is None or join.method not in ("", "NATURAL")):
                raise ResolveError("join by USING or NATURAL")
            nodes.append(join.this)
        for node in nodes:
            scope.sources.append(self._source(node, scope, ctes))
        if cause := spell_out_joins(select, scope.sources):
            raise ResolveError(cause)
        for projection in select.expressions:
            self._expression(projection, scope, ctes, {})
        aliases: dict[str, exp.Expr] = {}
        for projection in select.expressions:
            if isinstance(projection, exp.Alias):
                aliases.setdefault(projection.alias.lower(), projection.this)
        for join in select.args.get("joins") or []:
            if join.args.get("on") is not None:
                self._expression(join.args["on"], scope, ctes, {})
        for part in ("where", "group", "having", "windows", "order", "limit", "offset"):
            part_node = select.args.get(part)
            for item in part_node if isinstance(part_node, list) else [part_node]:
                if item is not None:
                    self._expression(item, scope, ctes, aliases)
        outputs = self._outputs(select, scope)
        if not keep_aliases:
            for projection in list(select.expressions):
                if isinstance(projection, exp.Alias):
                    projection.replace(projection.this)
        return outputs

    def _source(
        self,
        node: exp.Expr,
        scope: Scope,
        ctes: dict[str, dict[str, tuple[Table, Column] | None]],
    ) -> Source:
        if isinstance(node, exp.Subquery):
            outputs = self._query(node, scope.parent, ctes, keep_aliases=True)
            return Source(node.alias, node, outputs=outputs)
        if isinstance(node, exp.Values):
            self._expression(node, scope, ctes, {})
            return Source(node.alias, node, outputs=_outputs_of_values(node))
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Anonymous):
            columns = TABLE_FUNCTIONS.get(node.this.name.lower())
            if columns is None:
                raise ResolveError("unsupported FROM", node.this.name)
            self._expression(node.this, scope, ctes, {})
            return Source(node.alias or node.this.name, node, outputs=dict.fromkeys(columns))
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            raise ResolveError("unsupported FROM", node.key)
        in_main = node.db.lower() == "main" and not node.catalog
        if node.args.get("db") is not None and not in_main:
            raise ResolveError("unsupported FROM", node.sql("sqlite"))
        node.set("db", None)
        if not in_main and node.name.lower() in ctes:
            return Source(node.alias_or_name, node, outputs=ctes[node.name.lower()])
        table = None
        if self.database is not None:
            table = self.database.find(node.name)
            if table is None:
                raise ResolveError("unknown table", node.name)
        return Source(node.alias_or_name, node, table)

    def _outputs(self, select: exp.Select, scope: Scope) -> dict[str, tuple[Table, Column] | None]:
        bases = {id(use.node): use.base for use in scope.uses}
        outputs: dict[str, tuple[Table, Column] | None] = {}
        for projection in select.expressions:
            inner = projection.unalias()
            if isinstance(inner, exp.Star) or inner.is_star:
                wanted = inner.table.lower() if isinstance(inner, exp.Column) else ""
                for source in scope.sources:
                    if wanted and source.name.lower() != wanted:
                        continue
                    if source.table is not None:
                        for column in source.table.columns:
                            outputs.setdefault(column.name.lower(), (source.table, column))
                    else:
                        outputs.update(source.outputs)
            else:
                name = projection.alias_or_name or projection.sql("sqlite")
                outputs.setdefault(name.lower(), bases.get(id(inner)))
        return outputs

    def _expression(
        self,
        root: exp.Expr,
        scope: Scope,
        ctes: dict[str, dict[str, tuple[Table, Column] | None]],
        aliases: dict[str, exp.Expr],
    ) -> None:
        if isinstance(root, exp.Query):
            self._query(root, scope, ctes, keep_aliases=False)
            return
        if isinstance(root, exp.Column):
            self._column(root, scope, aliases)
            return
        for child in list(root.iter_expressions()):
            self._expression(child, scope, ctes, aliases)

    def _column(self, node: exp.Column, scope: Scope, aliases: dict[str, exp.Expr]) -> None:
        name, qualifier = node.name, node.table.lower()
        if node.args.get("db") is not None:
            if node.text("db").lower() != "main":
                raise ResolveError("column qualified by schema", node.sql("sqlite"))
            node.set("db", None)
        star = isinstance(node.this, exp.Star)
        alias = aliases.get(name.lower()) if not qualifier and not star else None
        # A bare ORDER BY term means the alias first; elsewhere columns come first.
        if alias is not None and isinstance(node.parent, exp.Ordered):
            self._inline(node, alias, scope)
            return
        quoted = isinstance(node.this, exp.Identifier) and node.this.quoted and not qualifier
        if quoted and self.database is None and _is_compared(node):
            node.replace(exp.Literal.string(name))
            return
        for owner in scope.ancestors():
            for source in owner.sources:
                if qualifier and source.name.lower() != qualifier:
                    continue
                if star:
                    scope.uses.append(Use(node, scope, owner, source, None))
                    return
                if source.has(name) or (self.database is None and (qualifier or _only(owner))):
                    base = source.outputs.get(name.lower())
                    if source.table is not None:
                        column = source.table.find(name)
                        base = (source.table, column) if column is not None else None
                    scope.uses.append(Use(node, scope, owner, source, base))
                    return
                if name.lower() in ROWID_NAMES and source.table is not None:
                    key = _rowid_column(source.table)
                    base = (source.table, key) if key is not None else None
                    if key is not None:
                        node.set("this", exp.to_identifier(key.name, quoted=True))
                    scope.uses.append(Use(node, scope, owner, source, base))
                    return
            if alias is not None:
                self._inline(node, alias, scope)
                return
        if quoted and self.database is not None:
            node.replace(exp.Literal.string(name))
        elif self.database is not None:
            raise ResolveError("unknown column", node.sql("sqlite"))
        else:
            scope.uses.append(Use(node, scope, None, None, None))

    def _inline(self, node: exp.Column, alias: exp.Expr, scope: Scope) -> None:
        if alias.find(exp.Query) is not None:
            projections = scope.select.expressions
            if not isinstance(node.parent, exp.Ordered | exp.Group) or any(
                projection.is_star for projection in projections
            ):
                raise ResolveError("alias of a subquery")
            position = next(n for n, p in enumerate(projections, 1) if p.unalias() is alias)
            node.replace(exp.Literal.number(position))
            return
        known = {id(use.node): use for use in scope.uses}
        copied = alias.copy()
        for old, new in zip(alias.find_all(exp.Column), copied.find_all(exp.Column), strict=True):
            use = known[id(old)]
            scope.uses.append(Use(new, scope, use.owner, use.source, use.base))
        if isinstance(copied, exp.Binary) and not isinstance(node.parent, exp.Ordered | exp.Group):
            copied = exp.Paren(this=copied)
        node.replace(copied)


def _first_select(query: exp.Expr) -> exp.Expr:
    """The SELECT that names the columns of a set operation."""
    while isinstance(query, exp.SetOperation | exp.Subquery):
        query = query.this
    return query


def _set_order(order: exp.Expr, names: list[str], texts: list[str]) -> None:
    """Write ORDER BY of a set operation by position, in place.

    It names result columns; a position says the same without hanging on how the first SELECT
    happens to be printed. `names` and `texts` are the columns of that SELECT.
    """
    for ordered in order.expressions:
        term = ordered.this
        if isinstance(term, exp.Literal) and term.is_int:
            continue
        text = term.sql("sqlite").lower()
        if text in names:
            position = names.index(text)
        elif text in texts:
            position = texts.index(text)
        elif isinstance(term, exp.Column) and term.name.lower() in names:
            position = names.index(term.name.lower())
        else:
            raise ResolveError("ORDER BY of a set operation", text)
        term.replace(exp.Literal.number(position + 1))


def _outputs_of_values(node: exp.Values) -> dict[str, tuple[Table, Column] | None]:
    width = len(node.expressions[0].expressions) if node.expressions else 0
    return dict.fromkeys(f"column{number + 1}" for number in range(width))


def _rowid_column(table: Table) -> Column | None:
    """The column that is another name of the rowid: the one INTEGER PRIMARY KEY."""
    key = table.primary_key
    return key[0] if len(key) == 1 and key[0].declared_type.upper() == "INTEGER" else None


def _only(scope: Scope) -> bool:
    return len(scope.sources) == 1 and scope.sources[0].table is None


def _is_compared(node: exp.Column) -> bool:
    """Without a schema: a quoted name on the right of a comparison is meant as a string."""
    parent = node.parent
    if isinstance(parent, exp.In | exp.Between):
        return node is not parent.this
    return isinstance(parent, exp.Binary) and node is parent.expression
