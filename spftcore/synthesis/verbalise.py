"""Questions without a model: a query's tree in plain English, in one of many wordings."""

from __future__ import annotations

import random

from sqlglot import exp

from spftcore.databases import Column, Database
from spftcore.synthesis.aggregates_in_words import (
    AGGREGATES,
    SHOW,
    AggregateSpeaker,
    Order,
    Told,
    direct,
)
from spftcore.synthesis.conditions_in_words import Unsayable, said, superlatives
from spftcore.synthesis.groups_in_words import Groups
from spftcore.synthesis.phrases import Modifier, NounPhrase
from spftcore.synthesis.queries_in_words import plain_question
from spftcore.synthesis.resolve import Resolved, Source
from spftcore.synthesis.rows_in_words import Frame
from spftcore.synthesis.sql_text import UNREADABLE, styled
from spftcore.synthesis.wording import TableWords, listing

_COMMANDS = ("List", "Show", "Find", "Give me", "Name", "Tell me")


def verbalise(sql: str, database: Database, rng: random.Random) -> str | None:
    """A question or command in English that asks for exactly what a query gives.

    Args:
        sql: a SELECT of SQLite's dialect.
        database: its schema; the words come from the natural names of tables and columns.
        rng: chooses among the wordings; equal states give equal texts.

    Returns:
        One sentence, with every literal as `sql_text.spoken` writes it (but `limit 1`
        and truth values, which become words): fluent where the query is one that people ask in
        such words, otherwise said clause by clause. None only where the query cannot be read
        against the schema.
    """
    try:
        resolved = styled(sql, database)
    except UNREADABLE:
        return None
    text = fluent_question(resolved, database, rng)
    try:
        return text if text is not None else plain_question(resolved, database, rng)
    except RecursionError:
        return None


def fluent_question(resolved: Resolved, database: Database, rng: random.Random) -> str | None:
    """A query in words that people would use, or None where none are known to be faithful."""
    try:
        text = _Speaker(resolved, database, rng).question()
        literals = [said(n) for n in resolved.tree.find_all(exp.Literal) if not _wordless(n)]
    except (Unsayable, RecursionError):
        return None
    return text if all(literal in text for literal in literals) else None


def _wordless(literal: exp.Literal) -> bool:
    return literal.this in ("0", "1") and not literal.is_string


class _Speaker(AggregateSpeaker):
    def __init__(self, resolved: Resolved, database: Database, rng: random.Random) -> None:
        super().__init__(database, rng)
        self.tree = resolved.tree
        self.scopes = {id(scope.select): scope for scope in resolved.scopes}

    def question(self) -> str:
        text = self.rng.choice(self.query(self.tree).questions)
        text = " ".join(text.split())
        return text[:1].upper() + text[1:]

    def query(self, node: exp.Expr) -> Told:
        if isinstance(node, exp.Subquery):
            return self.query(node.this)
        if isinstance(node, exp.SetOperation):
            return self.combined(node)
        if not isinstance(node, exp.Select) or node.args.get("with_"):
            raise Unsayable(node.key)
        return self.select(node)

    def thing(self, node: exp.Expr) -> str:
        return self.query(node).thing

    def combined(self, node: exp.SetOperation) -> Told:
        if node.args.get("order") or node.args.get("limit") or node.args.get("distinct") is False:
            raise Unsayable("an ordered set operation")
        one, other = self.thing(node.this), self.thing(node.expression)
        if isinstance(node, exp.Union):
            thing = f"{one} together with {other}"
            extra = [f"Show {one}, and also {other}, each once."]
        elif isinstance(node, exp.Intersect):
            thing = f"what {one} and {other} have in common"
            extra = [f"Which of {one} are also among {other}?"]
        else:
            thing = f"{one} except {other}"
            extra = [f"Which of {one} are not among {other}?"]
        return Told(thing, [f"{self.rng.choice(SHOW)} {thing}.", thing, *extra])

    def select(self, select: exp.Select) -> Told:
        if any(select.args.get(a) for a in ("offset", "windows", "qualify", "laterals")):
            raise Unsayable("an unusual clause")
        frame = Frame(select, self.scopes, self.database, self.rng, self.thing)
        order = select.args.get("order")
        orders = [
            Order(term.this.unnest(), bool(term.args.get("desc")))
            for term in (order.expressions if order is not None else [])
        ]
        for term in orders:
            frame.guard(term.node)
        limit = select.args.get("limit")
        count = said(limit.expression) if limit is not None else ""
        if count and (not orders or not count.isdigit() or count == "0"):
            raise Unsayable("a limit without an order")
        items = [item.unnest() for item in select.expressions]
        if select.args.get("group") is not None:
            return Groups(self, frame, items, orders, count).told()
        if select.args.get("having") is not None:
            raise Unsayable("HAVING without GROUP BY")
        if all(item.find(*AGGREGATES) for item in items):
            if orders or count or select.args.get("distinct"):
                raise Unsayable("an order of one row")
            return self.aggregates(frame, items)
        return self.plain(frame, items, orders, count, bool(select.args.get("distinct")))

    # Rows

    def plain(
        self, frame: Frame, items: list[exp.Expr], orders: list[Order], limit: str, once: bool
    ) -> Told:
        if len(items) == 1 and isinstance(items[0], exp.Star):
            columns: list[tuple[Source, Column]] = []
            if len(frame.sources) > 1 or once:
                raise Unsayable("all columns of a join")
        else:
            columns = [frame.column(item) for item in items]
        ordered = [frame.column(term.node) for term in orders]
        root = self.root(frame, columns, ordered)
        phrase = frame.rows(root, mentioned=tuple(source for source, _ in columns + ordered))
        suffix = self.order(frame, root, phrase, list(zip(orders, ordered, strict=True)), limit)
        if not columns:
            thing = f"all details of {phrase.the(self.rng)}{suffix}"
            every = f"everything about {phrase.the(self.rng)}{suffix}"
            verb = self.rng.choice(SHOW)
            return Told(thing, [f"{verb} {thing}.", f"Show {every}.", thing])
        words = frame.words(root)
        if [c for _, c in columns] == [words.label] and columns[0][0] is root:
            if once:
                phrase.modifiers.insert(0, Modifier("different", "", "", before=True))
            return self.names(words, phrase, suffix)
        return self.values(frame, root, columns, phrase, suffix, once)

    def root(
        self,
        frame: Frame,
        columns: list[tuple[Source, Column]],
        ordered: list[tuple[Source, Column]],
    ) -> Source:
        """The table from which the rows are told."""
        tables = {id(source): source for source, _ in columns + ordered}
        if not tables:
            return frame.sources[0]
        if len(tables) == 1:
            return next(iter(tables.values()))
        root = frame.lowest(list(tables.values()))
        if root is None:
            raise Unsayable("columns of tables without a common child")
        return root

    def order(
        self,
        frame: Frame,
        root: Source,
        phrase: NounPhrase,
        terms: list[tuple[Order, tuple[Source, Column]]],
        limit: str,
    ) -> str:
        """Work ORDER BY and LIMIT into the phrase; returns what has to follow the sentence."""
        if not terms:
            return ""
        if not limit:
            return self.sorting(frame, root, terms)
        (first, (source, column)), words = terms[0], frame.words(terms[0][1][0])
        if not first.down and words.nullable(column):
            guards = frame.select.args.get("where")
            said_known = guards is not None and any(
                isinstance(n.parent, exp.Not) and frame.column(n.this)[1] is column
                for n in guards.find_all(exp.Is)
            )
            if not said_known:
                raise Unsayable("NULLs would come first")
        phrase.limit, phrase.one = ("", True) if limit == "1" else (limit, False)
        if len(terms) > 1 or column.kind not in ("number", "date") or words.is_key(column):
            how = self.sorting(frame, root, terms).removeprefix(", ")
            phrase.best = Modifier("", f"come first when {how}", f"comes first when {how}")
            return ""
        options = superlatives(words, column, first.down, source is not root)
        if limit != "1" and words.is_time(column):
            options = [m for m in options if m.before or " recent " not in m.attribute]
        phrase.best = self.rng.choice(options)
        if phrase.limit and first.down and self.rng.random() < 0.25:
            phrase.limit = f"top {limit}"
            phrase.best = Modifier(f"by {words.measure(column, source is not root)}", "", "")
        return ""

    def names(self, words: TableWords, phrase: NounPhrase, suffix: str) -> Told:
        """Rows that are asked for by their names."""
        assert words.label is not None
        label = words.own(words.label)
        labels = label if phrase.one else f"{label}s"
        the = phrase.the(self.rng)
        of = the if the.startswith(("the ", "all ")) or phrase.name else f"the {phrase.text()}"
        whom = f"the {of[4:]}" if of.startswith("all ") else of
        questions = [
            f"{self.rng.choice(_COMMANDS)} {of}{suffix}.",
            f"{self.rng.choice(SHOW)} the {labels} of {of}{suffix}.",
            f"What {'is' if phrase.one else 'are'} the {labels} of {of}{suffix}?",
            f"{labels} of {the}{suffix}",
        ]
        if not phrase.bare:
            questions.append(f"{phrase.text()}{suffix}" if not phrase.one else f"{of}{suffix}")
        verb = "is" if phrase.one else "are"
        if words.is_person:
            questions.append(f"Who {verb} {whom}{suffix}?")
        elif phrase.definite:
            questions.append(f"What {verb} {whom}{suffix}?")
        questions += [
            f"{which} {phrase.text(without=m)} {m.singular if phrase.one else m.plural}{suffix}?"
            for m in phrase.predicates()
            for which in ("Which", "Which", "What")
        ]
        return Told(f"the {labels} of {of}{suffix}", questions)

    def values(
        self,
        frame: Frame,
        root: Source,
        columns: list[tuple[Source, Column]],
        phrase: NounPhrase,
        suffix: str,
        once: bool,
    ) -> Told:
        """Columns of rows."""
        words = frame.words(root)
        several = len(columns) == 1 and not phrase.one
        names = [self.column(frame, root, s, c, several) for s, c in columns]
        what = listing(names)
        if once:
            different = self.rng.choice(("different", "distinct"))
            many = "combinations of " if len(columns) > 1 else ""
            what = f"{different} {many}{what}"
        of = phrase.the(self.rng)
        if len(columns) > 1 and not (phrase.one or phrase.limit or phrase.definite or once):
            of = self.rng.choice((of, f"{self.rng.choice(('each', 'every'))} {phrase.text(True)}"))
        thing = f"the {what} of {of}{suffix}"
        amounts = names[0] == words.amount(columns[0][1], columns[0][0] is not root)
        counts = words.is_counted(columns[0][1]) and amounts
        verb = "is" if len(columns) == 1 and not several and not counts else "are"
        questions = [
            f"What {verb} {thing}?",
            f"{self.rng.choice(SHOW)} {thing}.",
            f"{self.rng.choice(SHOW)} {thing}.",
            thing.removeprefix("the "),
        ]
        own = [column for source, column in columns if source is root]
        label = words.label
        if label is not None and columns[0] == (root, label) and len(columns) > 1 and not once:
            others = listing(names[1:])
            their = "its" if phrase.one and not words.is_person else "their"
            target = f"the {phrase.text()}"
            questions.append(
                f"{self.rng.choice(_COMMANDS)} {target} with {their} {others}{suffix}."
            )
            questions.append(f"{phrase.text()}, with {their} {others}{suffix}")
        if phrase.one and len(columns) == 1 and own:
            questions += direct(words, own[0], of) * 2
        return Told(thing, questions)

    def column(self, frame: Frame, root: Source, source: Source, column: Column, many: bool) -> str:
        """A selected column, named with its table where that is not the rows' own."""
        words, apart = frame.words(source), source is not root
        if words.is_counted(column):
            if many or self.rng.random() < 0.4:
                return words.amount(column, apart)
            return words.measure(column, apart)
        return words.columns(column, apart) if many else words.column(column, apart)
