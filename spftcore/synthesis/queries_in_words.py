"""Any query in plain English, clause by clause: for what the fluent words do not reach."""

from __future__ import annotations

import random

from sqlglot import exp

from spftcore.databases import Database
from spftcore.synthesis.aggregates_in_words import AGGREGATES, SHOW
from spftcore.synthesis.clauses_in_words import conditions_of, direction
from spftcore.synthesis.expressions_in_words import ExpressionSpeaker
from spftcore.synthesis.functions_in_words import Value, listed
from spftcore.synthesis.names_in_words import Names
from spftcore.synthesis.resolve import Resolved, Scope, Source
from spftcore.synthesis.sql_text import conjuncts
from spftcore.synthesis.wording import listing

_AGGREGATES = (*AGGREGATES, exp.GroupConcat, exp.Filter)


def plain_question(resolved: Resolved, database: Database, rng: random.Random) -> str:
    """A query as one sentence that says every clause of it.

    Args:
        resolved: the query, as `sql_text.styled` gives it.
        database: its schema.
        rng: chooses among the wordings; equal states give equal texts.
    """
    return _QuerySpeaker(resolved, database, rng).question(resolved.tree)


class _QuerySpeaker:
    def __init__(self, resolved: Resolved, database: Database, rng: random.Random) -> None:
        self.rng = rng
        self.scopes = {id(scope.select): scope for scope in resolved.scopes}
        self.names = Names(resolved, database)
        self.words = ExpressionSpeaker(self.names, rng, self.nested, self.existing)
        self.names.describe(self.scopes, lambda n, scope: self.words.value(n, scope))

    # Whole queries

    def question(self, tree: exp.Expr) -> str:
        self.words.last = True
        before = self.meaning(tree)
        thing = self.thing(tree)
        text = f"{before}{self.rng.choice(SHOW).lower()} {thing}."
        if not before and isinstance(tree, exp.Select) and self.rng.random() < 0.6:
            verb = "is" if self._is_one(tree) else "are"
            bare = thing.removeprefix("the ")
            text = self.rng.choice((f"what {verb} {thing}?", f"what {verb} {thing}?", bare))
        return text[:1].upper() + text[1:]

    def thing(self, node: exp.Expr) -> str:
        """A query as a noun phrase."""
        if isinstance(node, exp.Subquery):
            return self.thing(node.this)
        if isinstance(node, exp.SetOperation):
            return self.combined(node)
        if not isinstance(node, exp.Select):
            return f"the rows of {node.key}"
        return self.select(node)

    def nested(self, node: exp.Expr, last: bool) -> str:
        """A subquery within a sentence; in brackets where what follows could belong to it."""
        query = node.this if isinstance(node, exp.Subquery) else node
        outer, self.words.last = self.words.last, True
        text = self.meaning(query) + self.thing(query)
        self.words.last = outer
        return text if self._is_closed(query, last) else f"({text})"

    def existing(self, query: exp.Expr, last: bool) -> str:
        """The rows of a query in EXISTS."""
        outer, self.words.last = self.words.last, True
        if isinstance(query, exp.Select) and query.args.get("group") is None:
            text = self.meaning(query) + self.rows(query)
        else:
            text = f"rows in {self.meaning(query)}{self.thing(query)}"
        self.words.last = outer
        return text if self._is_closed(query, last) else f"({text})"

    def meaning(self, node: exp.Expr) -> str:
        """The CTEs of a query: what their names stand for."""
        with_ = node.args.get("with_")
        if with_ is None:
            return ""
        parts = []
        for cte in with_.expressions:
            many = self.names.cte(cte.alias)
            if with_.args.get("recursive") and isinstance(cte.this, exp.SetOperation):
                start, more = self.thing(cte.this.this), self.thing(cte.this.expression)
                parts.append(f"{many} being {start} and, again and again, {more}")
            else:
                parts.append(f"{many} being {self.thing(cte.this)}")
        return f"with {'; '.join(parts)}: "

    def _is_closed(self, query: exp.Expr, last: bool) -> bool:
        """Whether a nested query can stand without brackets."""
        if not isinstance(query, exp.Select) or query.args.get("with_") is not None:
            return False
        open_ends = ("group", "having", "order", "limit", "offset", "joins")
        if any(query.args.get(a) for a in open_ends) or len(query.expressions) > 1:
            return False
        return last or query.args.get("where") is None

    def _is_one(self, tree: exp.Expr) -> bool:
        if not isinstance(tree, exp.Select) or tree.args.get("group") is not None:
            return False
        limit = tree.args.get("limit")
        single = limit is not None and limit.expression.name == "1"
        single = single or not self.scopes[id(tree)].sources or self._is_aggregate(tree)
        return len(tree.expressions) == 1 and single

    # Set operations

    def combined(self, node: exp.SetOperation) -> str:
        outer, self.words.last = self.words.last, False
        one, other = (self._side(side) for side in (node.this, node.expression))
        self.words.last = outer
        if isinstance(node, exp.Union):
            both = f"{one} together with {other}"
            both += ", repeats included" if node.args.get("distinct") is False else ", each once"
        elif isinstance(node, exp.Intersect):
            both = f"what {one} and {other} have in common"
        else:
            both = f"{one} except {other}"
        order, scope = node.args.get("order"), self._first_scope(node)
        terms = []
        for term in order.expressions if order is not None else []:
            value = Value("")
            if isinstance(term.this, exp.Literal) and scope is not None:
                items = self.items(scope.select)
                place = int(term.this.this) - 1
                value = items[place] if 0 <= place < len(items) else Value(f"column {place + 1}")
            terms.append(f"{value.text} {direction(term, value.kind)}")
        if terms:
            both += f", all sorted by {' and then by '.join(terms)}"
        return both + self._first(node, bool(terms), scope)

    def _side(self, node: exp.Expr) -> str:
        inner = node.this if isinstance(node, exp.Subquery) else node
        plain = isinstance(inner, exp.Select) and not any(
            inner.args.get(a) for a in ("group", "having", "order", "limit", "joins")
        )
        if plain:
            return self.thing(node)
        self.words.last = True
        text = self.thing(node)
        self.words.last = False
        return f"({text})"

    def _first_scope(self, node: exp.Expr) -> Scope | None:
        while isinstance(node, exp.SetOperation | exp.Subquery):
            node = node.this
        return self.scopes.get(id(node))

    # One SELECT

    def items(self, select: exp.Select) -> list[Value]:
        scope = self.scopes[id(select)]
        items = []
        for item in select.expressions:
            if isinstance(item.unnest(), exp.Star):
                items.append(Value("all details", definite=False))
            else:
                items.append(self.words.value(item, scope))
        return items

    def select(self, select: exp.Select) -> str:
        scope = self.scopes[id(select)]
        outer, self.words.last = self.words.last, False
        items = self.items(select)
        self.words.last = outer
        group = select.args.get("group")
        distinct = bool(select.args.get("distinct"))
        follow = any(select.args.get(a) for a in ("group", "having", "order", "limit", "offset"))
        if follow:
            self.words.last = False
        text = self.body(select, scope, items, distinct and group is None)
        having = select.args.get("having")
        if having is not None:
            clauses = self.words.conditions(conjuncts(having.this), scope)
            keep = self.rng.choice(("keeping only those where", "but only where"))
            text += f", {keep} {' and '.join(c.full for c in clauses)}"
        if distinct and group is not None:
            text += ", each result once"
        text += self.order(select, scope)
        self.words.last = outer
        return text

    def body(self, select: exp.Select, scope: Scope, items: list[Value], distinct: bool) -> str:
        group = select.args.get("group")
        said = listed(items)
        if not scope.sources:
            where = select.args.get("where")
            only = ""
            if where is not None:
                only = f" provided that {self.words.condition(where.this, scope).full}"
            return ("the different values of " if distinct else "") + said + only
        if group is not None:
            keys = [self.words.value(key, scope).text for key in group.expressions]
            each = listing(keys) if len(keys) == 1 else f"combination of {listing(keys)}"
            rows = self.rows(select, every=True)
            over = f"{'among' if len(scope.sources) == 1 else 'over'} {rows}"
            if keys == [item.text for item in items]:
                return f"each different {each} {over}"
            per = self.rng.choice(("for each", "for every"))
            return f"{said} {per} {each} {over}"
        if self._is_aggregate(select):
            only = select.expressions[0].unnest()
            star = isinstance(only, exp.Count) and isinstance(only.this, exp.Star)
            single = len(scope.sources) == 1
            if star and len(items) == 1 and single:
                return f"the number of {self.rows(select)}"
            every = self.rows(select, every=True)
            if star and len(items) == 1 and self.words.driving(scope) is None:
                return f"the number of combinations of {every}"
            text = f"{said} {'among' if single else 'over'} {every}"
            return f"{text}, each result once" if distinct else text
        if len(scope.sources) > 1:
            different = "the different combinations of " if distinct else ""
            if distinct and len(items) == 1:
                return f"the different values of {said} for {self.rows(select)}"
            return f"{different}{said} for {self.rows(select)}"
        plain = [self._bare(item) for item in select.expressions]
        names = [name for name in plain if name]
        if len(names) == len(plain):
            if len(names) == 1:
                shown = f"the {'different ' if distinct else ''}{names[0]}"
            else:
                what = listing([item.text for item in items])
                shown = f"the different combinations of {what}" if distinct else f"the {what}"
            return f"{shown} of {self.rows(select)}"
        different = "the different values of " if distinct else ""
        joint = "of" if plain == [""] and said == "all details" else "for"
        return f"{different}{said} {joint} {self.rows(select, every=True)}"

    def _bare(self, item: exp.Expr) -> str:
        """A plain column in the plural, '' for anything else."""
        node = item.unalias().unnest()
        use = self.names.uses.get(id(node))
        if use is None or use.source is None or not isinstance(node, exp.Column) or node.is_star:
            return ""
        return self.words.column_words(use.source, node.name, many=True)[0]

    def _is_aggregate(self, select: exp.Select) -> bool:
        parts = [*select.expressions, select.args.get("having"), select.args.get("order")]
        return any(
            found.find_ancestor(exp.Window, exp.Select) is select
            for part in parts
            if part is not None
            for found in part.find_all(*_AGGREGATES)
            if not (isinstance(found.parent, exp.Window) and found is found.parent.this)
        )

    # Rows

    def rows(self, select: exp.Select, every: bool = False) -> str:
        """The rows of FROM and WHERE: "students whose age is above 30"."""
        scope = self.scopes[id(select)]
        if not scope.sources:
            return "one row"
        joins = select.args.get("joins") or []
        where = select.args.get("where")
        rest = conjuncts(where.this if where is not None else None)
        if not joins:
            source = scope.sources[0]
            text = self.names.noun(source).many + self._definition(source)
            if not rest:
                return f"all {text}" if every else text
            clauses = self.words.conditions(rest, scope)
            return f"{text} {' and '.join(c.relative for c in clauses)}"
        first = scope.sources[0]
        parts = [f"each {self.names.noun(first).one}{self._definition(first)}"]
        for position, join in enumerate(joins, 1):
            said, left = self._joined(scope, position, join)
            parts.append(said)
            rest = left + rest
        text = listing(parts)
        if rest:
            clauses = self.words.conditions(rest, scope)
            text += f" where {' and '.join(c.full for c in clauses)}"
        return text

    def _joined(self, scope: Scope, position: int, join: exp.Join) -> tuple[str, list[exp.Expr]]:
        """One joined table, and the conditions that are still to be said."""
        source, earlier = scope.sources[position], scope.sources[:position]
        noun = self.names.noun(source)
        conditions = conditions_of(join)
        outer, self.words.last = self.words.last, False
        link = self.names.link(source, earlier, conditions)
        one = noun.one + self._definition(source)
        if link is not None and link.parent is source:
            text = f"the {one} of the {self.names.noun(link.child).one}"
            used = list(link.used)
        elif link is not None:
            parent = self.names.noun(link.parent).one
            text = f"each {one} of the {parent}"
            if link.role:
                text, used = self._by_columns(scope, source, one, list(link.used))
            else:
                used = list(link.used)
        else:
            text, used = self._by_columns(scope, source, one, conditions)
        rest = _without(conditions, used)
        if join.side:
            if rest:
                clauses = self.words.conditions(rest, scope)
                text += f" for which {' and '.join(c.full for c in clauses)}"
                rest = []
            if join.side in ("LEFT", "FULL"):
                text = f"if there is one, {text}"
            if join.side in ("RIGHT", "FULL"):
                text += f", or just the {noun.one} where nothing goes with it"
        self.words.last = outer
        return text, rest

    def _by_columns(
        self, scope: Scope, source: Source, one: str, conditions: list[exp.Expr]
    ) -> tuple[str, list[exp.Expr]]:
        """A table joined by columns that no foreign key links."""
        for condition in conditions:
            if not isinstance(condition, exp.EQ):
                continue
            sides = [condition.this.unnest(), condition.expression.unnest()]
            for side, other in (sides, sides[::-1]):
                use = self.names.uses.get(id(side))
                if use is None or use.source is not source:
                    continue
                if any(self.names.uses[id(c)].source is source for c in other.find_all(exp.Column)):
                    continue
                own = self.words.column_words(source, side.name)[0]
                value = self.words.value(other, scope).the
                return f"each {one} whose {own} is {value}", [condition]
        return f"every {one}", []

    def _definition(self, source: Source) -> str:
        """What a derived table stands for."""
        if not isinstance(source.node, exp.Subquery):
            return ""
        outer, self.words.last = self.words.last, True
        text = self.meaning(source.node.this) + self.thing(source.node)
        self.words.last = outer
        return f" ({text})"

    # Order

    def order(self, select: exp.Select, scope: Scope) -> str:
        order, limit = select.args.get("order"), select.args.get("limit")
        if order is None:
            return self._first(select, False, scope)
        terms = order.expressions
        if limit is not None and select.args.get("offset") is None and len(terms) == 1:
            value, down = self.words.value(terms[0].this, scope), bool(terms[0].args.get("desc"))
            degrees = {"time": ("latest", "earliest"), "number": ("highest", "lowest")}
            degree = degrees.get(value.kind)
            # Ascending, NULL comes first, and that is not the lowest.
            if degree is not None and down and self.rng.random() < 0.5:
                count = self.words.value(limit.expression, scope).text
                many = "the one" if count == "1" else f"the {count}"
                return f", only {many} with the {degree[0]} {value.text}"
        sort = self.rng.choice(("sorted", "ordered"))
        by = self.words.sorting(terms, scope)
        return f", {sort} by {by}{self._first(select, True, scope)}"

    def _first(self, node: exp.Expr, ordered: bool, scope: Scope | None) -> str:
        """LIMIT and OFFSET."""
        limit, offset = node.args.get("limit"), node.args.get("offset")
        if limit is None or scope is None:
            return ""
        count = self.words.value(limit.expression, scope).text
        if offset is not None:
            skipped = self.words.value(offset.expression, scope).text
            return f", leaving out the first {skipped} and taking the next {count}"
        if not ordered:
            return ", only one of them" if count == "1" else f", only {count} of them"
        return ", only the first" if count == "1" else f", only the first {count}"


def _without(conditions: list[exp.Expr], said: list[exp.Expr]) -> list[exp.Expr]:
    return [c for c in conditions if not any(c is one for one in said)]
