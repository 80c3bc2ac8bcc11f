"""FROM and WHERE of one SELECT as a noun phrase: which rows are meant, told from one table."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlglot import exp

from spftcore.databases import Column, Database
from spftcore.synthesis import conditions_in_words as conditions
from spftcore.synthesis import phrases
from spftcore.synthesis.conditions_in_words import Unsayable, a_phrase, said
from spftcore.synthesis.phrases import Modifier, NounPhrase
from spftcore.synthesis.resolve import Scope, Source, Use
from spftcore.synthesis.sql_text import conjuncts, inner_joins_only
from spftcore.synthesis.wording import TableWords


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
        self.tell = tell
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
        return self.lowest(self.sources)

    def lowest(self, wanted: list[Source]) -> Source | None:
        """A table whose every row belongs to at most one row of each of these tables."""
        for source in self.sources:
            reached = self._reach(source, upwards=True)
            if all(id(other) in reached for other in wanted):
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

    def inner(self, select: exp.Select, correlated: bool = False) -> Frame:
        """The frame of a subquery in a condition."""
        within = self if correlated else None
        return Frame(select, self.scopes, self.database, self.rng, self.tell, within)

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
            return [self.of_parent(words, told)]
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

    def of_parent(self, words: TableWords, told: NounPhrase) -> Modifier:
        if told.name and not told.modifiers:
            of = words.by
            named = self.rng.choice(
                (
                    f"{of} {told.name}",
                    f"{of} {words.noun} {told.name}",
                    f"{of} the {words.noun} {told.name}",
                )
            )
            return _of(named)
        said = [m for m in told.modifiers if not m.before]
        single = len(told.modifiers) == 1 and said and said[0].singular
        if single and not told.one and self.rng.random() < 0.4:
            return Modifier(f"whose {words.noun} {said[0].singular}", "", "")
        if told.one:
            return _of(f"{words.by} the {told.text()}")
        some = told.text() if self.rng.random() < 0.5 else a_phrase(told)
        return _of(f"{words.by} {some}")

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
        return phrases.having(self.rng.choice((a_phrase(told), told.text(one=False))))

    def _across(
        self, words: TableWords, told: NounPhrase, bridge: TableWords, whole: NounPhrase
    ) -> Modifier:
        """A row at the other side of a table that only links: "stations of the train X"."""
        if self.rng.random() < 0.3:
            return self._with_child(bridge, whole)
        if told.name and not told.modifiers:
            the = f"the {words.noun} {told.name}"
            return self.rng.choice((_of(f"of {the}"), phrases.having(the), _of(f"for {the}")))
        return phrases.having(f"the {told.text()}" if told.one else a_phrase(told))

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
            assert child.base is not None
            assert parent.base is not None
            assert child.source is not None
            assert parent.source is not None
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
            equal = conditions.literal_side(self, condition)
            if equal is not None:
                (_, column), _, literal = equal
                text = said(literal)
                if column is words.label and not phrase.name:
                    phrase.name, phrase.one = text, True
                    return
                if column is words.key and not phrase.name:
                    phrase.one = True
                    if self.rng.random() < 0.5 and phrase.noun == words.noun:
                        phrase.noun = f"{phrase.noun} {text}"
                        return
        options = conditions.modifiers(self, source, condition)
        if not options:
            return
        if any(m.before for m in phrase.modifiers):
            options = [m for m in options if not m.before]
        phrase.modifiers.append(self.rng.choice(options))


def _a(words: TableWords) -> str:
    return phrases.article(words.noun)


def _of(words: str) -> Modifier:
    """A modifier that makes no good predicate, but for makers: "books by X are by X"."""
    if words.startswith("by "):
        return phrases.being(words)
    return Modifier(words, "", "")
