"""FROM and WHERE of one SELECT as a noun phrase: which rows are meant, told from one table."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlglot import exp

from spftcore.databases import Column, Database
from spftcore.prompts import spoken
from spftcore.synthesis import phrases
from spftcore.synthesis.phrases import Modifier, NounPhrase
from spftcore.synthesis.resolve import Scope, Source, Use
from spftcore.synthesis.sql_text import conjuncts, inner_joins_only
from spftcore.synthesis.wording import TableWords, listing

_OPERATORS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
}
_MIRRORED = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "=": "=", "!=": "!="}
_DATE_STEM = re.compile(r"\d{4}(-\d{2}){0,2}\Z")


class Unsayable(Exception):
    """The query says something that there are no faithful words for."""


@dataclass(frozen=True, eq=False)
class Edge:
    """A join through a foreign key: `child.column` names a row of `parent`."""

    child: Source
    column: Column
    parent: Source

    def other(self, source: Source) -> Source:
        return self.parent if source is self.child else self.child


class Frame:
    """The tables of one SELECT, how they hang together, and the conditions on each.

    Args:
        tell: puts a whole subquery into words, as a thing ("the average price of books").
        within: the frame of the SELECT around, for EXISTS.
    """

    def __init__(
        self,
        select: exp.Select,
        scopes: dict[int, Scope],
        database: Database,
        rng: random.Random,
        tell: Callable[[exp.Expr], str],
        within: Frame | None = None,
    ) -> None:
        self.select, self.scopes, self.database, self.rng = select, scopes, database, rng
        self._tell = tell
        scope = scopes[id(select)]
        self.sources = scope.sources
        self._uses: dict[int, Use] = {id(use.node): use for use in scope.uses}
        self._words: dict[int, TableWords] = {}
        for source in self.sources:
            if source.table is None:
                raise Unsayable("derived table")
            self._words[id(source)] = TableWords(database, source.table)
        names = [source.table.name for source in self.sources if source.table is not None]
        if len(set(names)) < len(names) or not names or not inner_joins_only(select):
            raise Unsayable("self-join or outer join")
        self.guarded: set[tuple[int, str]] = set()  # columns whose IS NOT NULL needs no word
        self.outer_edges: list[tuple[Edge, bool]] = []
        self.edges: list[Edge] = []
        self.conditions: dict[int, list[exp.Expr]] = {id(source): [] for source in self.sources}
        where = select.args.get("where")
        parts = conjuncts(where.this if where is not None else None)
        for join in select.args.get("joins") or []:
            parts += conjuncts(join.args.get("on"))
        for part in parts:
            self._place(part, within)
        if len(self.edges) != len(self.sources) - 1 or len(self._reach(self.sources[0])) < len(
            self.sources
        ):
            raise Unsayable("tables that do not join in a tree of foreign keys")

    def words(self, source: Source) -> TableWords:
        return self._words[id(source)]

    def column(self, node: exp.Expr | None) -> tuple[Source, Column]:
        """The table and column a node stands for. Raises Unsayable for anything else."""
        use = self._uses.get(id(node)) if node is not None else None
        if use is None or use.source is None or use.base is None:
            raise Unsayable("not a plain column")
        if id(use.source) not in self._words:
            raise Unsayable("a column of an outer query")
        return use.source, use.base[1]

    def guard(self, node: exp.Expr) -> None:
        """Let `column is not null` go unsaid for the columns in an expression."""
        for column in node.find_all(exp.Column):
            use = self._uses.get(id(column))
            if use is not None and use.base is not None:
                self.guarded.add((id(use.source), use.base[1].name))

    def driving(self) -> Source | None:
        """The table each of whose rows gives one joined row, where there is one."""
        for source in self.sources:
            if len(self._reach(source, upwards=True)) == len(self.sources):
                return source
        return None

    def path(self, start: Source, end: Source) -> list[Edge]:
        """The edges from one table to another, in order."""
        if start is end:
            return []
        ways: list[tuple[Source, list[Edge]]] = [(start, [])]
        for source, way in ways:
            for edge in self._edges_of(source):
                if edge not in way:
                    further = [*way, edge]
                    if edge.other(source) is end:
                        return further
                    ways.append((edge.other(source), further))
        raise Unsayable("no path")

    def rows(
        self, root: Source, cut: frozenset[Edge] = frozenset(), mentioned: tuple[Source, ...] = ()
    ) -> NounPhrase:
        """The joined rows as rows of `root`.

        Args:
            cut: joins that are told elsewhere.
            mentioned: tables that the words around name anyway.
        """
        words = self.words(root)
        phrase = NounPhrase(words.noun, words.nouns, [])
        for condition in self.conditions[id(root)]:
            self._say(phrase, root, condition)
        for edge in self._edges_of(root):
            if edge not in cut:
                phrase.modifiers += self._link(root, edge, cut, mentioned)
        return phrase

    # Joins

    def _edges_of(self, source: Source) -> Iterator[Edge]:
        return (edge for edge in self.edges if source is edge.child or source is edge.parent)

    def _reach(self, start: Source, upwards: bool = False) -> set[int]:
        seen, todo = {id(start)}, [start]
        while todo:
            source = todo.pop()
            for edge in self._edges_of(source):
                other = edge.other(source)
                if id(other) not in seen and not (upwards and source is edge.parent):
                    seen.add(id(other))
                    todo.append(other)
        return seen

    def _link(
        self, root: Source, edge: Edge, cut: frozenset[Edge], mentioned: tuple[Source, ...]
    ) -> list[Modifier]:
        other = edge.other(root)
        words = self.words(other)
        told = self.rows(other, cut | {edge}, mentioned)
        if root is edge.child:
            if told.bare:
                known = other in mentioned or not self.words(root).nullable(edge.column)
                return [] if known else [phrases.having(f"a known {words.noun}")]
            return [self._of_parent(words, told)]
        if told.bare:
            if other in mentioned:
                return []
            return [self.rng.choice((phrases.having(_a(words)), *[self._have_one(words)] * 2))]
        inner = [e for e in self._edges_of(other) if e is not edge and e not in cut]
        if not self.conditions[id(other)] and len(inner) == 1 and inner[0].child is other:
            parent = inner[0].parent
            beyond = self.rows(parent, cut | {edge, inner[0]}, mentioned)
            if not beyond.bare and self._only_bridge(root, other, parent):
                return [self._across(self.words(parent), beyond, words, told)]
        return [self._with_child(words, told)]

    def _of_parent(self, words: TableWords, told: NounPhrase) -> Modifier:
        if told.name and not told.modifiers:
            of = words.by
            named = self.rng.choice(
                (
                    f"{of} {told.name}",
                    f"{of} {words.noun} {told.name}",
                    f"{of} the {words.noun} {told.name}",
                )
            )
            return phrases.being(named)
        said = [m for m in told.modifiers if not m.before]
        if len(told.modifiers) == 1 and len(said) == 1 and said[0].singular:
            if self.rng.random() < 0.4:
                clause = f"whose {words.noun} {said[0].singular}"
                of = f"{words.by} {_a_phrase(told)}"
                return Modifier(clause, f"are {of}", f"is {of}")
        if told.one:
            return phrases.being(f"{words.by} the {told.text()}")
        some = told.text() if self.rng.random() < 0.5 else _a_phrase(told)
        return phrases.being(f"{words.by} {some}")

    def _have_one(self, words: TableWords) -> Modifier:
        least = f"at least one {words.noun}"
        return self.rng.choice(
            (
                phrases.having(least),
                Modifier(f"that have {words.nouns}", f"have {words.nouns}", f"has {words.nouns}"),
            )
        )

    def _with_child(self, words: TableWords, told: NounPhrase) -> Modifier:
        if told.name and not told.modifiers:
            return phrases.having(f"the {words.noun} {told.name}")
        if told.one:
            return phrases.having(f"the {told.text()}")
        return phrases.having(self.rng.choice((_a_phrase(told), told.text(one=False))))

    def _across(
        self, words: TableWords, told: NounPhrase, bridge: TableWords, whole: NounPhrase
    ) -> Modifier:
        """A row at the other side of a table that only links: "stations of the train X"."""
        if self.rng.random() < 0.3:
            return self._with_child(bridge, whole)
        if told.name and not told.modifiers:
            the = f"the {words.noun} {told.name}"
            return self.rng.choice(
                (phrases.being(f"of {the}"), phrases.having(the), phrases.being(f"for {the}"))
            )
        return phrases.having(f"the {told.text()}" if told.one else _a_phrase(told))

    def _only_bridge(self, one: Source, between: Source, other: Source) -> bool:
        """Whether no other table links these two, so that the link need not be named."""
        ends = {s.table.name.lower() for s in (one, other) if s.table is not None}
        linking = []
        for table in self.database.tables:
            refers = [
                key.ref_table.lower()
                for key in self.database.foreign_keys
                if key.table.lower() == table.name.lower()
            ]
            if ends <= set(refers):
                linking.append(table.name)
            if table.name.lower() in ends and (ends - {table.name.lower()}) & set(refers):
                return False
        assert between.table is not None
        return linking == [between.table.name]

    # Conditions

    def _place(self, part: exp.Expr, within: Frame | None) -> None:
        if isinstance(part, exp.EQ) and all(
            isinstance(side, exp.Column) for side in (part.this, part.expression)
        ):
            uses = [self._uses.get(id(side)) for side in (part.this, part.expression)]
            if None in uses:
                raise Unsayable("a column that is no column of a table")
            one, other = (use for use in uses if use is not None)
            if one.source is not other.source:
                self._join(one, other, within)
                return
        owners = {id(use.source): use.source for use in self._own_uses(part)}
        if len(owners) != 1:
            raise Unsayable("a condition over several tables")
        source = next(iter(owners.values()))
        if source is None or id(source) not in self.conditions:
            raise Unsayable("a condition on an outer table")
        self.conditions[id(source)].append(part)

    def _own_uses(self, part: exp.Expr) -> list[Use]:
        uses = [self._uses[id(c)] for c in part.find_all(exp.Column) if id(c) in self._uses]
        for exists in part.find_all(exp.Exists):
            inner = self.scopes.get(id(exists.this))
            uses += [u for u in inner.uses if u.owner is not inner] if inner is not None else []
        return uses

    def _join(self, one: Use, other: Use, within: Frame | None) -> None:
        if one.base is None or other.base is None or one.source is None or other.source is None:
            raise Unsayable("a join of something else than columns")
        for child, parent in ((one, other), (other, one)):
            assert child.base is not None and parent.base is not None
            assert child.source is not None and parent.source is not None
            pair = [
                key
                for key in self.database.foreign_keys
                if key.table.lower() == child.base[0].name.lower()
                and key.ref_table.lower() == parent.base[0].name.lower()
            ]
            ends = [(key.column.lower(), key.ref_column.lower()) for key in pair]
            if (child.base[1].name.lower(), parent.base[1].name.lower()) not in ends:
                continue
            if len(pair) > 1:
                raise Unsayable("several foreign keys between two tables")
            edge = Edge(child.source, child.base[1], parent.source)
            inside = [id(s) in self._words for s in (edge.child, edge.parent)]
            if all(inside):
                self.edges.append(edge)
            elif within is not None and any(inside):
                self.outer_edges.append((edge, inside[0]))
            else:
                raise Unsayable("a join with an outer table")
            return
        raise Unsayable("a join by no foreign key")

    def _say(self, phrase: NounPhrase, source: Source, condition: exp.Expr) -> None:
        words = self.words(source)
        condition = condition.unnest()
        if isinstance(condition, exp.EQ):
            equal = self._literal_side(condition)
            if equal is not None:
                (_, column), _, literal = equal
                text = said(literal)
                if column is words.label and not phrase.name:
                    phrase.name, phrase.one = text, True
                    return
                if column is words.key and not phrase.name and len(self.sources) >= 1:
                    phrase.one = True
                    if self.rng.random() < 0.5 and phrase.noun == words.noun:
                        phrase.noun = f"{phrase.noun} {text}"
                        if phrase.name == "" and not phrase.modifiers:
                            phrase.definite = True
                        return
        options = self.modifiers(source, condition)
        if not options:
            return
        if any(m.before for m in phrase.modifiers):
            options = [m for m in options if not m.before]
        phrase.modifiers.append(self.rng.choice(options))

    def _literal_side(
        self, comparison: exp.Expr
    ) -> tuple[tuple[Source, Column], str, exp.Expr] | None:
        """(column, operator as read from the column, literal) of a comparison with a literal."""
        left, right = comparison.this.unnest(), comparison.expression.unnest()
        op = _OPERATORS[type(comparison)]
        if is_literal(right) and isinstance(left, exp.Column):
            return self.column(left), op, right
        if is_literal(left) and isinstance(right, exp.Column):
            return self.column(right), _MIRRORED[op], left
        return None

    def modifiers(self, source: Source, node: exp.Expr, negated: bool = False) -> list[Modifier]:
        """The ways to say a condition; empty where it needs no word."""
        words = self.words(source)
        node = node.unnest()
        if isinstance(node, exp.Not):
            return self.modifiers(source, node.this, not negated)
        if type(node) in _OPERATORS:
            return self._comparison(words, node, negated)
        if isinstance(node, exp.Or | exp.And):
            return self._either(source, node, negated)
        if isinstance(node, exp.Between) and not negated:
            _, column = self.column(node.this.unnest())
            low, high = node.args["low"], node.args["high"]
            if not (is_literal(low) and is_literal(high)):
                raise Unsayable("BETWEEN of expressions")
            return phrases.between(words, column, said(low), said(high))
        if isinstance(node, exp.Like) and is_literal(node.expression):
            return self._like(words, node, negated)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            _, column = self.column(node.this.unnest())
            if negated and (id(source), column.name) in self.guarded:
                return []
            return phrases.unknown(words, column, negated)
        if isinstance(node, exp.In) and node.args.get("query") is not None:
            return self._in_query(source, node, negated)
        if isinstance(node, exp.In) and node.expressions:
            _, column = self.column(node.this.unnest())
            if not all(is_literal(value) for value in node.expressions):
                raise Unsayable("IN of expressions")
            return self._one_of(words, column, [said(v) for v in node.expressions], negated)
        if isinstance(node, exp.Exists):
            return self._exists(source, node, negated)
        raise Unsayable(f"condition {node.key}")

    def _comparison(self, words: TableWords, node: exp.Expr, negated: bool) -> list[Modifier]:
        equal = self._literal_side(node)
        op = _OPERATORS[type(node)]
        if equal is not None:
            (_, column), op, literal = equal
            op = phrases.NEGATED[op] if negated else op
            return self._literal(words, column, op, literal)
        if negated:
            op = phrases.NEGATED[op]
        left, right = node.this.unnest(), node.expression.unnest()
        if isinstance(left, exp.Query) and isinstance(right, exp.Column):
            left, right, op = right, left, _MIRRORED[op]
        _, column = self.column(left)
        if isinstance(right, exp.Query):
            return self._scalar(words, column, op, right)
        _, other = self.column(right)
        if column.kind not in ("number", "date") or column.kind != other.kind:
            raise Unsayable("columns of text compared")
        value = f"the {words.measure(other)}"
        verbs = {"=": "equals", ">": "is above", "<": "is below", ">=": "is at least"}
        verbs |= {"<=": "is at most", "!=": "differs from"}
        clause = f"whose {words.measure(column)} {verbs[op]} {value}"
        return [Modifier(clause, "", "")]

    def _literal(
        self, words: TableWords, column: Column, op: str, literal: exp.Expr
    ) -> list[Modifier]:
        text = said(literal)
        if column.kind == "boolean" and op in ("=", "!=") and text in ("0", "1"):
            return phrases.flagged(words, column, (text == "1") == (op == "="))
        if words.is_time(column):
            whole = words.is_year(column) is False and not re.fullmatch(r"\d{4}(-\d{2})?", text)
            return phrases.timed(words, column, op, text, whole)
        key = words.is_key(column)
        number = column.kind == "number" and not key
        if op in ("=", "!=") and not number:
            if column is words.label and op == "=":
                return [phrases.being(f"named {text}"), phrases.being(f"called {text}")]
            if op == "=" and key:
                return self._keyed(words, column, text)
            if op == "=":
                return phrases.equal_texts(words, column, [text])
            return phrases.different_texts(words, column, [text])
        if column.kind == "text" and isinstance(literal, exp.Literal) and literal.is_string:
            raise Unsayable("text compared by order")
        return phrases.compared(words, column, op, text, literal=True)

    def _keyed(self, words: TableWords, column: Column, text: str) -> list[Modifier]:
        own = words.own(column)
        mods = [phrases.having(f"{own} {text}"), phrases.having(f"the {own} {text}")]
        parents = {
            key.ref_table
            for key in self.database.foreign_keys
            if key.table == words.table.name and key.column == column.name
        }
        if len(parents) == 1:
            parent = TableWords(self.database, self.database.table(parents.pop()))
            if own == f"{parent.noun} id":
                mods += [phrases.being(f"{parent.by} {parent.noun} {text}")] * 2
        return mods

    def _one_of(
        self, words: TableWords, column: Column, values: list[str], negated: bool
    ) -> list[Modifier]:
        if column is words.label and not negated:
            return [phrases.being(f"named {listing(values, 'or')}")]
        if negated:
            return phrases.different_texts(words, column, values)
        if words.is_time(column):
            at = "in" if words.is_year(column) else "on"
            name = words.column(column)
            either = f"{at} {listing(values, 'or')}"
            verb = words.time_verb(column)
            if verb is not None and verb[0]:
                return [Modifier(*(f"{form} {either}" for form in verb))]
            return [phrases.having(f"{name} {either}")]
        if words.is_counted(column):
            return [phrases.having(f"{listing(values, 'or')} {words.own(column)}")]
        return phrases.equal_texts(words, column, values)

    def _either(self, source: Source, node: exp.Expr, negated: bool) -> list[Modifier]:
        parts = [part.unnest() for part in node.flatten()]
        if negated or isinstance(node, exp.And):
            raise Unsayable("AND within another condition")
        words = self.words(source)
        sides = [self._literal_side(p) if isinstance(p, exp.EQ) else None for p in parts]
        columns = {side[0][1] for side in sides if side is not None}
        if None not in sides and len(columns) == 1:
            values = [said(side[2]) for side in sides if side is not None]
            return self._one_of(words, columns.pop(), values, False)
        each = []
        for part in parts:
            if isinstance(part, exp.And):
                raise Unsayable("AND within OR")
            options = [m for m in self.modifiers(source, part) if m.plural and m.singular]
            if not options:
                raise Unsayable("OR without words")
            each.append(self.rng.choice(options))
        plural, singular = (
            " or ".join(getattr(m, form) for m in each) for form in ("plural", "singular")
        )
        return [
            Modifier("", f"either {plural}", f"either {singular}"),
            Modifier("", plural, singular),
        ]

    def _like(self, words: TableWords, node: exp.Like, negated: bool) -> list[Modifier]:
        _, column = self.column(node.this.unnest())
        pattern, text = node.expression.this, said(node.expression)
        if "%" in text or "_" in text:
            raise Unsayable("a pattern in the middle of a text")
        stem = text.removesuffix("-")
        if column.kind == "date" and pattern == f"{text}%" and _DATE_STEM.match(stem):
            if stem != text:
                raise Unsayable("a pattern that ends within a date")
            whole = stem.count("-") == 2
            op = "!=" if negated else "="
            return phrases.timed(words, column, op, text, whole)
        return phrases.matching(words.column(column), pattern, text, negated)

    # Subqueries

    def _scalar(
        self, words: TableWords, column: Column, op: str, query: exp.Expr
    ) -> list[Modifier]:
        scope = self.scopes.get(id(query))
        plain = (
            isinstance(query, exp.Select)
            and scope is not None
            and [s.table for s in scope.sources] == [words.table]
            and not any(query.args.get(a) for a in ("where", "group", "having", "limit", "joins"))
        )
        if plain and isinstance(query, exp.Select) and scope is not None:
            value = query.expressions[0]
            use = next((u for u in scope.uses if u.node is value.this), None)
            same = use is not None and use.base is not None and use.base[1] is column
            if same and isinstance(value, exp.Avg):
                return phrases.above_average(words, column, op)
            if same and isinstance(value, exp.Max | exp.Min) and op == "=":
                return superlatives(words, column, isinstance(value, exp.Max))
        if column.kind != "number":
            told = self._tell(query)
            verb = {"=": "is", "!=": "is not", ">": "is after", "<": "is before"}.get(op)
            if verb is None or (op in "<>" and column.kind != "date"):
                raise Unsayable("text compared by order")
            return [Modifier(f"whose {words.column(column)} {verb} {told}", "", "")]
        return phrases.compared(words, column, op, self._tell(query), literal=False)

    def _in_query(self, source: Source, node: exp.In, negated: bool) -> list[Modifier]:
        words = self.words(source)
        query = node.args["query"]
        query = query.this if isinstance(query, exp.Subquery) else query
        _, column = self.column(node.this.unnest())
        simple = isinstance(query, exp.Select) and not any(
            query.args.get(a) for a in ("group", "having", "limit", "offset", "order", "with_")
        )
        if simple and len(query.expressions) == 1 and id(query) in self.scopes:
            inner = Frame(query, self.scopes, self.database, self.rng, self._tell)
            value = query.expressions[0]
            if isinstance(value, exp.Column):
                inner.guard(value)
                other, of = inner.column(value)
                if inner._refers(other, of, words, column):
                    return self._has_child(inner, other, negated)
                if self._refers(source, column, inner.words(other), of):
                    return self._among_parents(inner, other, negated)
        told = self._tell(query)
        among = "is not among" if negated else "is among"
        return [Modifier(f"whose {words.column(column)} {among} {told}", "", "")]

    def _refers(self, child: Source, column: Column, words: TableWords, key: Column) -> bool:
        assert child.table is not None
        return any(
            k.table == child.table.name
            and k.column == column.name
            and k.ref_table == words.table.name
            and k.ref_column == key.name
            for k in self.database.foreign_keys
        )

    def _has_child(self, inner: Frame, child: Source, negated: bool) -> list[Modifier]:
        told = inner.rows(child)
        if not negated:
            if told.one:
                return [phrases.having(f"the {told.text()}")]
            return [
                phrases.having(_a_phrase(told)),
                phrases.having(f"at least one {told.text(True)}"),
            ]
        no_one, none = f"no {told.text(True)}", f"no {told.text(False)}"
        return [
            Modifier(f"without any {told.text(True)}", f"have {none}", f"has {no_one}"),
            Modifier(f"without {told.text(False)}", f"have {none}", f"has {none}"),
            phrases.having(no_one),
            Modifier(f"that have no {told.text(True)}", f"have {no_one}", f"has {no_one}"),
        ]

    def _among_parents(self, inner: Frame, parent: Source, negated: bool) -> list[Modifier]:
        told, words = inner.rows(parent), inner.words(parent)
        if not negated:
            return [inner._of_parent(words, told)]
        who = f"the {told.text()}"
        clause = f"is not {who}" if told.one else f"is not one of {who}"
        return [Modifier(f"whose {words.noun} {clause}", "", "")]

    def _exists(self, source: Source, node: exp.Exists, negated: bool) -> list[Modifier]:
        query = node.this
        query = query.this if isinstance(query, exp.Subquery) else query
        if not isinstance(query, exp.Select) or any(
            query.args.get(a) for a in ("group", "having", "limit", "offset", "with_")
        ):
            raise Unsayable("EXISTS of such a query")
        inner = Frame(query, self.scopes, self.database, self.rng, self._tell, within=self)
        if len(inner.outer_edges) != 1:
            raise Unsayable("EXISTS without one join to the outside")
        edge, child_inside = inner.outer_edges[0]
        if child_inside and edge.parent is source:
            return self._has_child(inner, edge.child, negated)
        if not child_inside and edge.child is source:
            return self._among_parents(inner, edge.parent, negated)
        raise Unsayable("EXISTS about another table")


def superlatives(
    words: TableWords, column: Column, highest: bool, qualified: bool = False
) -> list[Modifier]:
    """Rows first in an order: "with the highest price", "most expensive"."""
    measure = words.measure(column, qualified)
    if words.is_time(column):
        degrees = ("latest", "most recent") if highest else ("earliest", "first")
        if words.is_year(column) or not highest:
            degrees = degrees[:1]
    elif words.is_counted(column):
        most = "most" if highest else "fewest"
        own = words.own(column)
        mods = [phrases.having(f"the {most} {own}")] * 3 if not qualified else []
        return [*mods, phrases.having(f"the {'highest' if highest else 'lowest'} {measure}")]
    else:
        degrees = ("highest", "largest") if highest else ("lowest", "smallest")
    mods = [phrases.having(f"the {degree} {measure}") for degree in degrees]
    extremes = words.extremes(column) if not qualified else None
    if extremes is not None:
        adjective = extremes[0 if highest else 1]
        text = f"the {adjective}"
        mods += [Modifier(adjective, f"are {text}", f"is {text}", before=True)] * 3
    return mods


def is_literal(node: exp.Expr | None) -> bool:
    """Whether a node is a number or a string."""
    inner = node.this if isinstance(node, exp.Neg) else node
    return isinstance(inner, exp.Literal)


def said(node: exp.Expr) -> str:
    """A literal as it stands in a question. Raises Unsayable when nothing of it would."""
    if isinstance(node, exp.Neg):
        return f"-{said(node.this)}"
    text: str = node.this
    if node.is_string:
        text = spoken("'" + text.replace("'", "''") + "'")
    if not text.strip():
        raise Unsayable("an empty text")
    return text


def _a(words: TableWords) -> str:
    return phrases.article(words.noun)


def _a_phrase(told: NounPhrase) -> str:
    """One row of some: "a Fantasy book"."""
    return phrases.article(told.text(one=True))
