"""A query as sets and lists that can be compared part by part, whatever its text looks like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice, permutations, product

from sqlglot import exp

from spftcore.databases import Database
from spftcore.mistakes.parts import NESTED, Block, Columns, Compound, Condition, Shape, Term
from spftcore.synthesis.resolve import Resolved, Scope
from spftcore.synthesis.sql_text import conjuncts, styled

_MOST_NUMBERINGS = 24  # of tables read several times
_MOST_COPIES = 4  # of one table, to be numbered in every way
_NUMERIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)\Z")
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
}
_NEGATED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.EQ: exp.NEQ,
    exp.NEQ: exp.EQ,
    exp.GT: exp.LTE,
    exp.GTE: exp.LT,
    exp.LT: exp.GTE,
    exp.LTE: exp.GT,
}
_COMMUTES = (exp.EQ, exp.NEQ, exp.Add, exp.Mul, exp.And, exp.Or)
# Said otherwise by sqlglot without a difference in meaning.
_MUTE = frozenset(("big_int", "nulls_first", "quoted", "safe", "typed"))


class Reader:
    """Reads one query into its shape; `columns` may be shared between the two that are compared.

    Raises (the constructor): what `sql_text.UNREADABLE` lists.
    """

    def __init__(self, sql: str, database: Database) -> None:
        self.database = database
        self.resolved: Resolved = styled(sql, database)
        self._names: dict[int, str] = {}
        self._facts: dict[str, bool] = {}  # of a base column: it holds no NULL
        self._scopes = {id(scope.select): scope for scope in self.resolved.scopes}
        self._sources: dict[int, str] = {}
        self._columns = Columns()
        self._numbering: Mapping[str, str] = {}
        for scope in self.resolved.scopes:
            self._name(scope)

    @property
    def tree(self) -> exp.Query:
        return self.resolved.tree

    def links(self, numbering: Mapping[str, str]) -> list[tuple[str, str]]:
        """Pairs of columns that the inner joins of the query equate."""
        self._numbering = numbering
        found = []
        for scope in self.resolved.scopes:
            for condition in _on_conditions(scope.select):
                if pair := self._equated(condition):
                    found.append(pair)
        return found

    def numberings(self) -> Iterator[dict[str, str]]:
        """Ways to number the tables that are read twice, as new names of old ones.

        Which of `friend as a join friend as b` comes first says nothing.
        """
        copies: dict[str, set[str]] = {}
        for name in self._sources.values():
            if "#" in name:
                copies.setdefault(name.rpartition("#")[0], set()).add(name)
        ways = [
            [dict(zip(sorted(names), order, strict=True)) for order in permutations(sorted(names))]
            for names in copies.values()
            if len(names) <= _MOST_COPIES
        ]
        for chosen in islice(product(*ways), _MOST_NUMBERINGS):
            yield {old: new for way in chosen for old, new in way.items()}

    def shape(self, columns: Columns, numbering: Mapping[str, str]) -> Shape:
        """The query's shape, with equal columns under one name."""
        self._columns = columns
        self._numbering = numbering
        return self._shape(self.tree)

    def _name(self, scope: Scope) -> None:
        plain = Counter(s.table.name.lower() for s in scope.sources if s.table is not None)
        number: Counter[str] = Counter()
        for source in scope.sources:
            if source.table is None:
                self._sources[id(source)] = "~"  # of an inner query only the column's name counts
                continue
            name = source.table.name.lower()
            number[name] += 1
            self._sources[id(source)] = f"{name}#{number[name]}" if plain[name] > 1 else name
        for use in scope.uses:
            if use.source is None:
                self._names[id(use.node)] = use.node.sql("sqlite").lower()
                continue
            owner = self._sources.get(id(use.source), "~")
            column = use.base[1].name if use.base is not None else use.node.name
            if use.base is not None and use.source.table is None:
                owner = use.base[0].name.lower()
            name = f"{owner}.{column.lower()}"
            self._names[id(use.node)] = name
            if use.base is not None:
                table, base = use.base
                alone = base.primary_key and len(table.primary_key) == 1
                self._facts[name] = base.not_null or alone

    def _shape(self, node: exp.Expr) -> Shape:
        if isinstance(node, exp.Subquery):
            return self._shape(node.this)
        if isinstance(node, exp.SetOperation):
            kind = node.key
            if isinstance(node, exp.Union) and not node.args.get("distinct"):
                kind = "union all"
            return Compound(
                kind,
                self._shape(node.this),
                self._shape(node.expression),
                self._order(node),
                self._limit(node),
            )
        if isinstance(node, exp.Select):
            return self._block(node)
        return Block(exp.Select())  # VALUES and the like: nothing to compare

    def _block(self, select: exp.Select) -> Block:
        scope = self._scopes[id(select)]
        block = Block(select)
        for source in scope.sources:
            if source.table is not None:
                block.tables[source.table.name.lower()] += 1
            else:
                block.tables[NESTED] += 1
                if isinstance(source.node, exp.Subquery):
                    block.inner.append(("from", self._shape(source.node)))
        with_ = select.args.get("with_")
        for cte in with_.expressions if with_ is not None else ():
            block.inner.append(("from", self._shape(cte.this)))
        block.sides = Counter(join.side for join in select.args.get("joins") or [] if join.side)
        for condition in _on_conditions(select):
            pair = self._equated(condition)
            if pair is None:
                block.odd_joins.append(self._condition(condition))
            else:
                block.linked.append(pair)
        outer = bool(block.sides)
        for projection in select.expressions:
            block.outputs += self._outputs(projection, scope, outer)
        block.distinct = select.args.get("distinct") is not None
        block.where = self._conditions(select.args.get("where"))
        if not outer:  # where an inner join's condition stands makes no difference
            block.where += block.odd_joins
            block.odd_joins = []
        group = select.args.get("group")
        outputs = block.outputs
        block.groups = [
            self._by_position(term, outputs) for term in (group.expressions if group else [])
        ]
        block.having = self._conditions(select.args.get("having"))
        block.order = self._order(select, outputs)
        block.limit = self._limit(select)
        for clause in ("expressions", "joins", "where", "group", "having", "order"):
            part = select.args.get(clause)
            for item in part if isinstance(part, list) else [part]:
                if item is not None:
                    where = "select" if clause == "expressions" else clause
                    block.inner += [(where, self._shape(query)) for query in _queries(item)]
        # `group by` of all that is selected is another way to write DISTINCT.
        plain = block.groups and not block.having and not any(t.aggregates for t in outputs)
        if plain and {t.code for t in block.groups} == {t.code for t in outputs}:
            block.groups, block.distinct = [], True
        return block

    def _outputs(self, projection: exp.Expr, scope: Scope, outer: bool) -> Iterator[Term]:
        inner = projection.unalias()
        if isinstance(inner, exp.Star) or inner.is_star:
            wanted = inner.table.lower() if isinstance(inner, exp.Column) else ""
            for source in scope.sources:
                if wanted and source.alias.lower() != wanted:
                    continue
                owner = self._sources.get(id(source), "~")
                for name in source.column_names():
                    column = self._columns(self._numbered(f"{owner}.{name.lower()}"))
                    yield Term(column, (column,))
            return
        yield self.term(inner, outer)

    def _by_position(self, node: exp.Expr, outputs: list[Term]) -> Term:
        """GROUP BY and ORDER BY may name a result column by its number."""
        if isinstance(node, exp.Literal) and node.is_int and 0 < int(node.this) <= len(outputs):
            return outputs[int(node.this) - 1]
        return self.term(node)

    def _order(self, node: exp.Expr, outputs: list[Term] | None = None) -> list[tuple[Term, bool]]:
        order = node.args.get("order")
        return [
            (self._by_position(term.this, outputs or []), bool(term.args.get("desc")))
            for term in (order.expressions if order is not None else [])
            if isinstance(term, exp.Ordered)
        ]

    def _limit(self, node: exp.Expr) -> tuple[str, str]:
        limit, offset = node.args.get("limit"), node.args.get("offset")
        count = limit.args.get("expression") if limit is not None else None
        skipped = offset.args.get("expression") if offset is not None else None
        return (
            self.term(count).code if count is not None else "",
            self.term(skipped).code if skipped is not None else "",
        )

    def _equated(self, condition: exp.Expr) -> tuple[str, str] | None:
        if not isinstance(condition, exp.EQ):
            return None
        left, right = condition.this, condition.expression
        if isinstance(left, exp.Column) and isinstance(right, exp.Column):
            return self._column(left), self._column(right)
        return None

    def _column(self, node: exp.Column) -> str:
        return self._numbered(self._names.get(id(node), node.name.lower()))

    def _numbered(self, name: str) -> str:
        owner, dot, column = name.rpartition(".")
        return f"{self._numbering.get(owner, owner)}{dot}{column}"

    def _conditions(self, clause: exp.Expr | None) -> list[Condition]:
        if clause is None:
            return []
        return [c for part in conjuncts(clause.this) for c in self._split(part)]

    def _split(self, node: exp.Expr) -> Iterator[Condition]:
        """What BETWEEN, or NOT before an OR, says is two conditions."""
        found = self._condition(node)
        if found.operator == "and":
            yield from found.parts
        else:
            yield found

    def _condition(self, node: exp.Expr, negated: bool = False) -> Condition:
        if isinstance(node, exp.Paren):
            return self._condition(node.this, negated)
        if isinstance(node, exp.Not):
            return self._condition(node.this, not negated)
        if isinstance(node, exp.And | exp.Or):
            connector = "or" if isinstance(node, exp.Or) != negated else "and"
            parts = list(self._flat(node, type(node), negated))
            return (connector == "or" and _merged_alternatives(parts)) or _connected(
                connector, parts
            )
        if isinstance(node, exp.Between):
            low, high = (exp.LT, exp.GT) if negated else (exp.GTE, exp.LTE)
            return _connected(
                "or" if negated else "and",
                [
                    self._comparison(low, node.this, node.args["low"]),
                    self._comparison(high, node.this, node.args["high"]),
                ],
            )
        if type(node) in _NEGATED:
            kind = _NEGATED[type(node)] if negated else type(node)
            return self._comparison(kind, node.this, node.expression)
        prefix = "not " if negated else ""
        if isinstance(node, exp.In):
            left = self.term(node.this)
            if node.args.get("query") is not None:
                return _made(prefix + "in", left, Term(NESTED))
            values = sorted((self.term(value) for value in node.expressions), key=_by_code)
            if len(values) == 1:
                return _made("neq" if negated else "eq", left, values[0])
            return _made(prefix + "in", left, _together(values))
        if isinstance(node, exp.Exists):
            return _made(prefix + "exists", Term(""), Term(NESTED))
        if isinstance(node, exp.Binary):
            left, right = self.term(node.this), self.term(node.expression)
            return _made(prefix + node.key, left, right)
        return _made(prefix + "true", self.term(node), Term(""))

    def _flat(
        self, node: exp.Expr, connector: type[exp.Expr], negated: bool
    ) -> Iterator[Condition]:
        inner = node.this if isinstance(node, exp.Paren) else node
        if isinstance(inner, connector):
            yield from self._flat(inner.this, connector, negated)
            yield from self._flat(inner.expression, connector, negated)
        else:
            found = self._condition(node, negated)
            same = found.operator == ("or" if (connector is exp.Or) != negated else "and")
            yield from found.parts if same else (found,)

    def _comparison(self, kind: type[exp.Expr], this: exp.Expr, other: exp.Expr) -> Condition:
        left, right = self.term(this), self.term(other)
        swap = (-_weight(right), right.code) < (-_weight(left), left.code)
        if swap:
            left, right = right, left
            kind = _MIRRORED.get(kind, kind)
        return _made(kind.key, left, right)

    def term(self, node: exp.Expr, outer: bool = False) -> Term:
        """An expression in pieces."""
        columns: list[str] = []
        literals: list[str] = []
        aggregates: list[str] = []
        flags: list[bool] = []

        def code(node: exp.Expr) -> str:
            if isinstance(node, exp.Paren | exp.Alias):
                return code(node.this)
            if isinstance(node, exp.Query | exp.Subquery):
                return NESTED
            if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
                columns.append(self._columns(self._column(node)))
                return columns[-1]
            if isinstance(node, exp.Literal):
                literals.append(_literal(node))
                return literals[-1]
            if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal):
                literals.append("-" + _literal(node.this))
                return literals[-1]
            if isinstance(node, exp.AggFunc):
                aggregates.append(node.sql_name().lower())
            if isinstance(node, exp.Count) and self._counts_rows(node.this, outer):
                return "count(*)"
            if isinstance(node, exp.Distinct):
                flags.append(True)
            parts: list[str] = []
            for key, value in node.args.items():
                if key in _MUTE or value is None or value is False:
                    continue
                for item in value if isinstance(value, list) else [value]:
                    parts.append(code(item) if isinstance(item, exp.Expr) else str(item).lower())
            if isinstance(node, _COMMUTES):
                parts.sort()
            return f"{node.key}({' '.join(parts)})"

        whole = code(node)
        return Term(
            whole,
            tuple(sorted(columns)),
            tuple(sorted(literals)),
            tuple(sorted(aggregates)),
            bool(flags),
        )

    def _counts_rows(self, argument: exp.Expr, outer: bool) -> bool:
        """Whether all rows are counted: of `*`, of a constant, or of a column without NULL."""
        if isinstance(argument, exp.Column) and not isinstance(argument.this, exp.Star):
            return not outer and self._facts.get(self._names.get(id(argument), ""), False)
        return isinstance(argument, exp.Star | exp.Literal)


def _by_code(term: Term) -> str:
    return term.code


def _weight(term: Term) -> int:
    """What stands on the left of a comparison: a column or aggregate before a query or value."""
    return 2 if term.columns or "count(*)" in term.code else 1 if NESTED in term.code else 0


def _made(operator: str, left: Term, right: Term) -> Condition:
    return Condition(f"{operator}({left.code} {right.code})", operator, left, right)


def _connected(connector: str, parts: list[Condition]) -> Condition:
    parts = sorted(parts, key=lambda part: part.code)
    code = f"{connector}({' '.join(part.code for part in parts)})"
    return Condition(code, connector, Term(""), Term(""), tuple(parts))


def _together(terms: list[Term]) -> Term:
    return Term(
        " ".join(term.code for term in terms),
        tuple(sorted(c for term in terms for c in term.columns)),
        tuple(sorted(c for term in terms for c in term.literals)),
        tuple(sorted(c for term in terms for c in term.aggregates)),
    )


def _merged_alternatives(parts: list[Condition]) -> Condition | None:
    """`x = 1 or x = 2` as `x in (1, 2)`."""
    if any(part.operator != "eq" or not part.right.literals for part in parts):
        return None
    if len({part.left.code for part in parts}) != 1:
        return None
    values = sorted({part.right for part in parts}, key=_by_code)
    return _made("in", parts[0].left, _together(values))


def _on_conditions(select: exp.Select) -> list[exp.Expr]:
    joins = select.args.get("joins") or []
    return [part for join in joins for part in conjuncts(join.args.get("on"))]


def _queries(node: exp.Expr) -> Iterator[exp.Expr]:
    """The outermost queries inside an expression, in the order of the text."""
    if isinstance(node, exp.Query):
        yield node
        return
    if isinstance(node, exp.Join):
        on = node.args.get("on")
        if on is not None:
            yield from _queries(on)
        return
    for child in node.iter_expressions():
        yield from _queries(child)


def _literal(node: exp.Literal) -> str:
    """A number as a number, also where it is written as a string; text in quotes."""
    text = str(node.this)
    if not _NUMERIC.match(text):
        return f"'{text}'"
    text = text.lstrip("+")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text or "0"
