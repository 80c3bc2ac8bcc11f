"""Questions without a model: a query's tree in plain English, in one of many wordings."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from sqlglot import exp

from spftcore.databases import Column, Database
from spftcore.synthesis import phrases
from spftcore.synthesis.phrases import Modifier, NounPhrase
from spftcore.synthesis.resolve import Resolved, Source
from spftcore.synthesis.rows_in_words import Frame, Unsayable, is_literal, said, superlatives
from spftcore.synthesis.sql_text import UNREADABLE, styled
from spftcore.synthesis.wording import TableWords, listing, singular

_COMMANDS = ("List", "Show", "Find", "Give me", "Name", "Tell me")
_SHOW = ("Show", "List", "Give", "Find", "Tell me", "Give me")
_AGGREGATES = (exp.Count, exp.Avg, exp.Sum, exp.Min, exp.Max)
_OPERATORS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
}


def verbalise(sql: str, database: Database, rng: random.Random) -> str | None:
    """A question or command in English that asks for exactly what a query gives.

    Args:
        sql: a SELECT of SQLite's dialect.
        database: its schema; the words come from the natural names of tables and columns.
        rng: chooses among the wordings; equal states give equal texts.

    Returns:
        One sentence, with every literal as `spftcore.prompts.spoken` writes it (but `limit 1`
        and truth values, which become words), or None where no faithful words are known.
    """
    try:
        resolved = styled(sql, database)
        text = _Speaker(resolved, database, rng).question()
        literals = [said(n) for n in resolved.tree.find_all(exp.Literal) if not _wordless(n)]
    except (Unsayable, *UNREADABLE):
        return None
    return text if all(literal in text for literal in literals) else None


def _wordless(literal: exp.Literal) -> bool:
    return literal.this in ("0", "1") and not literal.is_string


@dataclass
class _Told:
    """A query in words: as a thing ("the average price of books") and as whole questions."""

    thing: str
    questions: list[str]


@dataclass(frozen=True)
class _Order:
    """One term of ORDER BY: a column of a table, or an aggregate."""

    node: exp.Expr
    down: bool


class _Speaker:
    def __init__(self, resolved: Resolved, database: Database, rng: random.Random) -> None:
        self.tree, self.database, self.rng = resolved.tree, database, rng
        self.scopes = {id(scope.select): scope for scope in resolved.scopes}

    def question(self) -> str:
        text = self.rng.choice(self.query(self.tree).questions)
        text = " ".join(text.split())
        return text[:1].upper() + text[1:]

    def query(self, node: exp.Expr) -> _Told:
        if isinstance(node, exp.Subquery):
            return self.query(node.this)
        if isinstance(node, exp.SetOperation):
            return self.combined(node)
        if not isinstance(node, exp.Select) or node.args.get("with_"):
            raise Unsayable(node.key)
        return self.select(node)

    def thing(self, node: exp.Expr) -> str:
        return self.query(node).thing

    def combined(self, node: exp.SetOperation) -> _Told:
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
        return _Told(thing, [f"{self.rng.choice(_SHOW)} {thing}.", thing, *extra])

    def select(self, select: exp.Select) -> _Told:
        if any(select.args.get(a) for a in ("offset", "windows", "qualify", "laterals")):
            raise Unsayable("an unusual clause")
        frame = Frame(select, self.scopes, self.database, self.rng, self.thing)
        order = select.args.get("order")
        orders = [
            _Order(term.this.unnest(), bool(term.args.get("desc")))
            for term in (order.expressions if order is not None else [])
        ]
        for term in orders:
            frame.guard(term.node)
        limit = select.args.get("limit")
        count = said(limit.expression) if limit is not None else ""
        if count and (not orders or not count.isdigit() or count == "0"):
            raise Unsayable("a limit without an order")
        items = list(select.expressions)
        if select.args.get("group") is not None:
            return _Groups(self, frame, items, orders, count).told()
        if select.args.get("having") is not None:
            raise Unsayable("HAVING without GROUP BY")
        if all(item.find(*_AGGREGATES) for item in items):
            if orders or count or select.args.get("distinct"):
                raise Unsayable("an order of one row")
            return self.aggregates(frame, items)
        return self.plain(frame, items, orders, count, bool(select.args.get("distinct")))

    # Rows

    def plain(
        self, frame: Frame, items: list[exp.Expr], orders: list[_Order], limit: str, once: bool
    ) -> _Told:
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
            verb = self.rng.choice(_SHOW)
            return _Told(thing, [f"{verb} {thing}.", f"Show {every}.", thing])
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
        driving = frame.driving()
        if len(tables) == 1:
            return next(iter(tables.values()))
        if not tables and len(frame.sources) == 1:
            return frame.sources[0]
        if driving is None:
            raise Unsayable("columns of tables without a common child")
        return driving

    def order(
        self,
        frame: Frame,
        root: Source,
        phrase: NounPhrase,
        terms: list[tuple[_Order, tuple[Source, Column]]],
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
        phrase.limit = "" if limit == "1" else limit
        phrase.one, phrase.definite = limit == "1", True
        if len(terms) == 1 and column.kind in ("number", "date") and not words.is_key(column):
            options = superlatives(words, column, first.down, source is not root)
            if limit != "1" and words.is_time(column):
                options = [m for m in options if m.before or " recent " not in m.attribute]
            chosen = self.rng.choice(options)
            if chosen.before:
                phrase.modifiers.insert(0, chosen)
            else:
                at = sum(1 for m in phrase.modifiers if m.before)
                phrase.modifiers.insert(at, chosen)
            return ""
        how = self.sorting(frame, root, terms).removeprefix(", ")
        phrase.modifiers.append(Modifier("", f"come first when {how}", f"comes first when {how}"))
        return ""

    def sorting(
        self, frame: Frame, root: Source, terms: list[tuple[_Order, tuple[Source, Column]]]
    ) -> str:
        parts = []
        for term, (source, column) in terms:
            words = frame.words(source)
            name = words.measure(column, source is not root)
            if column.kind == "text":
                ways = (
                    ("in reverse alphabetical order",) if term.down else ("in alphabetical order",)
                )
            elif words.is_time(column):
                ways = (
                    ("from latest to earliest", "in descending order", "most recent first")
                    if term.down
                    else ("from earliest to latest", "in ascending order", "earliest first")
                )
            else:
                ways = (
                    ("from high to low", "in descending order", "highest first")
                    if term.down
                    else ("from low to high", "in ascending order", "lowest first")
                )
            parts.append(f"by {name} {self.rng.choice(ways)}")
        return f", {self.rng.choice(('sorted', 'ordered'))} {' and then '.join(parts)}"

    def names(self, words: TableWords, phrase: NounPhrase, suffix: str) -> _Told:
        """Rows that are asked for by their names."""
        assert words.label is not None
        label = words.own(words.label)
        labels = label if phrase.one else f"{label}s"
        the = phrase.the(self.rng)
        of = the if the.startswith(("the ", "all ")) or phrase.name else f"the {phrase.text()}"
        questions = [
            f"{self.rng.choice(_COMMANDS)} {of}{suffix}.",
            f"{self.rng.choice(_SHOW)} the {labels} of {of}{suffix}.",
            f"What {'is' if phrase.one else 'are'} the {labels} of {of}{suffix}?",
            f"{labels} of {the}{suffix}",
        ]
        if not phrase.bare:
            questions.append(f"{phrase.text()}{suffix}" if not phrase.one else f"{of}{suffix}")
        verb = "is" if phrase.one else "are"
        if words.is_person:
            questions.append(f"Who {verb} {of}{suffix}?")
        elif phrase.definite:
            questions.append(f"What {verb} {of}{suffix}?")
        questions += [
            f"{which} {phrase.text(without=m)} {m.singular if phrase.one else m.plural}{suffix}?"
            for m in self.predicates(phrase)
            for which in ("Which", "Which", "What")
        ]
        return _Told(f"the {labels} of {of}{suffix}", questions)

    @staticmethod
    def predicates(phrase: NounPhrase) -> list[Modifier]:
        """The modifiers that can become the sentence's verb."""
        if phrase.name:
            return []
        last = [m for m in phrase.modifiers if not m.before][-1:]
        first = [m for m in phrase.modifiers if m.before and phrase.definite][:1]
        return [m for m in last + first if m.singular and m.plural]

    def values(
        self,
        frame: Frame,
        root: Source,
        columns: list[tuple[Source, Column]],
        phrase: NounPhrase,
        suffix: str,
        once: bool,
    ) -> _Told:
        """Columns of rows."""
        words = frame.words(root)
        names = [
            self.column(frame, root, source, column, not phrase.one) for source, column in columns
        ]
        if len(columns) > 1 or phrase.one:
            names = [self.column(frame, root, s, c, False) for s, c in columns]
        several = len(columns) == 1 and not phrase.one
        different = self.rng.choice(("different ", "distinct ")) if once else ""
        what = different + listing(names)
        if once and len(columns) > 1:
            what = (
                f"different pairs of {what}" if len(columns) == 2 else f"different {listing(names)}"
            )
            what = what.replace("different distinct", "distinct").replace("of different", "of")
        of = phrase.the(self.rng)
        if len(columns) > 1 and not (phrase.one or phrase.limit or phrase.definite or once):
            of = self.rng.choice((of, f"{self.rng.choice(('each', 'every'))} {phrase.text(True)}"))
        thing = f"the {what} of {of}{suffix}"
        verb = "is" if len(columns) == 1 and not several else "are"
        questions = [
            f"What {verb} {thing}?",
            f"{self.rng.choice(_SHOW)} {thing}.",
            f"{self.rng.choice(_SHOW)} {thing}.",
            thing.removeprefix("the "),
        ]
        own = [column for source, column in columns if source is root]
        label = words.label
        if label is not None and own[:1] == [label] and 1 < len(columns) and not once:
            others = listing(names[1:])
            their = "its" if phrase.one and not words.is_person else "their"
            target = f"the {phrase.text()}"
            questions.append(
                f"{self.rng.choice(_COMMANDS)} {target} with {their} {others}{suffix}."
            )
            questions.append(f"{phrase.text()}, with {their} {others}{suffix}")
            if phrase.one:
                questions.append(f"Which {phrase.text()}, and what is {their} {others}?")
                questions.pop()
        if phrase.one and len(columns) == 1 and own:
            questions += self.direct(words, own[0], of) * 2
        return _Told(thing, questions)

    @staticmethod
    def direct(words: TableWords, column: Column, of: str) -> list[str]:
        """Questions about one column of one row that need not name the column."""
        own, scale, verb = words.own(column), words.scale(column), words.time_verb(column)
        if words.is_counted(column):
            return [f"How many {own} does {of} have?"]
        if scale is not None:
            by_family = {
                "age": ["How old is {}?"],
                "cost": ["How much does {} cost?", "What does {} cost?"],
                "weight": ["How much does {} weigh?", "How heavy is {}?"],
                "height": ["How tall is {}?"],
                "speed": ["How fast is {}?"],
                "length": ["How long is {}?"],
                "pay": ["How much does {} earn?", "What does {} earn?"],
            }
            return [question.format(of) for question in by_family[scale.family]]
        if verb is not None and verb[2].startswith("was"):
            when = "In what year" if words.is_year(column) else "When"
            return [f"{when} was {of} {verb[2].removeprefix('was ')}?"]
        if own == "joined":
            return [f"When did {of} join?"]
        if words.is_place(column) and words.is_person:
            return [f"Which {own} is {of} from?", f"What {own} does {of} come from?"]
        if words.is_place(column) and own != "headquarters":
            return [f"In which {own} is {of}?"]
        return []

    def column(self, frame: Frame, root: Source, source: Source, column: Column, many: bool) -> str:
        """A selected column, named with its table where that is not the rows' own."""
        words, apart = frame.words(source), source is not root
        if words.is_counted(column):
            return words.measure(column, apart)
        return words.columns(column, apart) if many else words.column(column, apart)

    # Aggregates of all rows

    def aggregates(self, frame: Frame, items: list[exp.Expr]) -> _Told:
        for item in items:
            frame.guard(item)
        if len(items) == 1 and isinstance(items[0], exp.Count):
            return self.count(frame, items[0])
        root = self.counted_root(frame, items)
        phrase = frame.rows(root, mentioned=self.mentioned(frame, items))
        of = phrase.the(self.rng)
        measures = self.measures(frame, root, items, of)
        thing = f"the {listing(measures)}"
        if not any(isinstance(item, exp.Count) for item in items):
            thing += f" of {of}"
        verb = "is" if len(items) == 1 else "are"
        questions = [
            f"What {verb} {thing}?",
            f"{self.rng.choice(('Show', 'Find', 'Give', 'Tell me', 'Calculate'))} {thing}.",
            thing.removeprefix("the "),
            thing.removeprefix("the "),
        ]
        if len(items) == 1 and isinstance(items[0].this, exp.Column):
            questions += self.direct_aggregate(frame, root, items[0], phrase)
        return _Told(thing, questions)

    def direct_aggregate(
        self, frame: Frame, root: Source, item: exp.Expr, phrase: NounPhrase
    ) -> list[str]:
        source, column = frame.column(item.this)
        words = frame.words(source)
        if source is not root or phrase.name or phrase.one:
            return []
        own, extremes = words.own(column), words.extremes(column)
        if isinstance(item, exp.Max | exp.Min) and extremes is not None:
            adjective = extremes[0 if isinstance(item, exp.Max) else 1]
            one = NounPhrase(phrase.noun, phrase.nouns, list(phrase.modifiers), one=True)
            one.modifiers.insert(0, Modifier(adjective, "", "", before=True))
            return self.direct(words, column, f"the {one.text()}")
        if words.is_counted(column) and isinstance(item, exp.Avg):
            return [f"How many {own} does {phrases.article(phrase.text(True))} have on average?"]
        if words.is_counted(column) and isinstance(item, exp.Sum):
            return [f"How many {own} do the {phrase.text()} have in total?"]
        return []

    def counted_root(self, frame: Frame, items: list[exp.Expr]) -> Source:
        """The table whose rows are counted, averaged or summed."""
        driving = frame.driving()
        extremes = all(isinstance(item, exp.Min | exp.Max) for item in items)
        if extremes and (driving is None or self.rng.random() < 0.5):
            sources = [frame.column(item.this)[0] for item in items]
            if all(source is sources[0] for source in sources):
                return sources[0]
        if driving is None:
            raise Unsayable("rows that are pairs of rows")
        return driving

    def mentioned(self, frame: Frame, items: list[exp.Expr]) -> tuple[Source, ...]:
        return tuple(frame.column(c)[0] for item in items for c in item.find_all(exp.Column))

    def measures(self, frame: Frame, root: Source, items: list[exp.Expr], of: str) -> list[str]:
        """Aggregates as nouns without "the"; one column under several is named once."""
        result = []
        plain = [i for i in items if not isinstance(i, exp.Count)]
        columns = [i.this for i in plain]
        same = len(plain) == len(items) > 1 and len({c.sql() for c in columns}) == 1
        for position, item in enumerate(items):
            if isinstance(item, exp.Count):
                if not isinstance(item.this, exp.Star):
                    raise Unsayable("several counts")
                result.append(f"number of {of}")
                continue
            measure = self.aggregate(frame, root, item)
            if same and position < len(items) - 1:
                measure = measure.split()[0]
            result.append(measure)
        if any(isinstance(i, exp.Count) for i in items) and plain:
            result = [
                m if isinstance(i, exp.Count) else f"{m} of {of}" if n == 0 else m
                for n, (m, i) in enumerate(zip(result, items, strict=True))
            ]
        return result

    def aggregate(self, frame: Frame, root: Source | None, item: exp.Expr) -> str:
        """AVG, SUM, MIN or MAX of a column: "average number of pages"."""
        if not isinstance(item, exp.Avg | exp.Sum | exp.Min | exp.Max):
            raise Unsayable("an expression of aggregates")
        source, column = frame.column(item.this)
        words = frame.words(source)
        measure = words.measure(column, source is not root)
        if isinstance(item, exp.Avg):
            degrees: tuple[str, ...] = ("average", "average", "mean")
        elif isinstance(item, exp.Sum):
            degrees = ("total", "total", "sum of the")
            if words.is_counted(column):
                degrees = ("total",)
        elif words.is_time(column):
            degrees = ("latest", "last") if isinstance(item, exp.Max) else ("earliest", "first")
        elif column.kind == "text":
            raise Unsayable("the first of texts")
        elif isinstance(item, exp.Max):
            degrees = ("highest", "largest", "maximum")
        else:
            degrees = ("lowest", "smallest", "minimum")
        degree = self.rng.choice(degrees)
        if degree == "sum of the":
            return f"{degree} {words.columns(column, source is not root)}"
        return f"{degree} {measure}"

    def count(self, frame: Frame, item: exp.Count) -> _Told:
        inner = item.this
        if isinstance(inner, exp.Distinct):
            return self.count_distinct(frame, inner)
        root = frame.driving()
        if root is None:
            raise Unsayable("rows that are pairs of rows")
        phrase = self.counted_rows(frame, root, item)
        text, names = phrase.text(False), self.rng.choice(("Count", "Count"))
        thing = f"the number of {text}"
        have = self.rng.choice(("are there", "are there", "do we have", "exist"))
        questions = [
            f"How many {text} {have}?",
            f"{names} the {text}.",
            f"number of {text}",
            f"What is {thing}?",
        ]
        questions += [
            f"How many {phrase.text(False, without=m)} {m.plural}?"
            for m in self.predicates(phrase)
            for _ in range(3)
        ]
        return _Told(thing, questions)

    def counted_rows(
        self,
        frame: Frame,
        root: Source,
        item: exp.Count,
        cut: frozenset = frozenset(),
        mentioned: tuple[Source, ...] = (),
    ) -> NounPhrase:
        """The rows that COUNT(*) or COUNT(column) counts."""
        if isinstance(item.this, exp.Column):
            source, column = frame.column(item.this)
            words = frame.words(source)
            known = column.not_null or column.primary_key
            if not known and words.is_key(column):
                known = not words.nullable(column)
            phrase = frame.rows(root, cut, mentioned)
            if not known:
                if source is not root:
                    raise Unsayable("a count of known values elsewhere")
                phrase.modifiers.append(phrases.unknown(words, column, True)[0])
            return phrase
        if not isinstance(item.this, exp.Star) and not is_literal(item.this):
            raise Unsayable("a count of an expression")
        return frame.rows(root, cut, mentioned)

    def count_distinct(self, frame: Frame, distinct: exp.Distinct) -> _Told:
        if len(distinct.expressions) != 1:
            raise Unsayable("a count of several columns")
        source, column = frame.column(distinct.expressions[0])
        words = frame.words(source)
        frame.guard(distinct)
        phrase = frame.rows(source)
        names = words.columns(column)
        keys = [k for k in self.database.foreign_keys if k.table == words.table.name]
        of_column = [k for k in keys if k.column == column.name]
        if len(of_column) == 1 and words.own(column).endswith(" id"):
            names = TableWords(self.database, self.database.table(of_column[0].ref_table)).nouns
        if column is words.key or words.is_counted(column):
            names = words.nouns if column is words.key else f"values of {words.measure(column)}"
        different = self.rng.choice(("different", "distinct", "different"))
        of = phrase.the(self.rng)
        if column is words.key:
            thing = f"the number of {different} {phrase.text(False)}"
            return _Told(
                thing,
                [
                    f"How many {different} {phrase.text(False)} are there?",
                    thing.removeprefix("the "),
                    f"What is {thing}?",
                ],
            )
        thing = f"the number of {different} {names} of {of}"
        questions = [
            f"How many {different} {names} do {of} have?"
            if not phrase.one
            else f"What is {thing}?",
            f"Count the {different} {names} of {of}.",
            thing.removeprefix("the "),
            f"How many {different} {names} are there among {of}?",
        ]
        return _Told(thing, questions)


class _Groups:
    """A SELECT with GROUP BY."""

    def __init__(
        self,
        speaker: _Speaker,
        frame: Frame,
        items: list[exp.Expr],
        orders: list[_Order],
        limit: str,
    ) -> None:
        self.speaker, self.frame, self.rng = speaker, frame, speaker.rng
        self.orders, self.limit = orders, limit
        self.select = frame.select
        if self.select.args.get("distinct"):
            raise Unsayable("DISTINCT over groups")
        self.keys = [frame.column(node) for node in self.select.args["group"].expressions]
        self.items = items
        having = self.select.args.get("having")
        self.having = having.this.unnest() if having is not None else None
        self.aggregates = [i for i in items if i.find(*_AGGREGATES)]
        self.columns = [frame.column(i) for i in items if not i.find(*_AGGREGATES)]
        for node in (self.select.args["group"], self.having, *self.aggregates):
            if node is not None:
                frame.guard(node)
        driving = frame.driving()
        if driving is None:
            raise Unsayable("rows that are pairs of rows")
        self.driving = driving

    def told(self) -> _Told:
        if not self.columns and len(self.keys) != 1:
            raise Unsayable("aggregates of groups that are not named")
        group = self.group()
        suffix = self.order(group)
        if not self.aggregates:
            return self.named_groups(group, suffix)
        return self.measured_groups(group, suffix)

    # What a group is called

    def group(self) -> NounPhrase:
        """One group as a noun: the row it is about, or the value its rows share."""
        frame, keys = self.frame, self.keys
        source = keys[0][0]
        words = frame.words(source)
        shown = self.columns or keys
        self.about: Source | None = None
        if all(s is source for s, _ in keys + shown) and source is not self.driving:
            fixed = any(c is words.key or c is words.label for _, c in keys)
            label_shown = any(c is words.label for _, c in shown) or not words.label
            if fixed and (label_shown or any(c is words.key for _, c in keys)):
                self.about = source
        if self.about is not None:
            edge = frame.path(self.driving, source)[-1]
            self.cut = frozenset({edge})
            group = frame.rows(source, self.cut)
        else:
            if {(id(s), c.name) for s, c in shown} - {(id(s), c.name) for s, c in keys}:
                raise Unsayable("a column that its group does not name")
            self.cut = frozenset()
            names = [
                frame.words(s).measure(c, s is not self.driving)
                if frame.words(s).is_counted(c)
                else frame.words(s).column(c, s is not self.driving)
                for s, c in keys
            ]
            one = listing(names)
            many = frame.words(source).columns(keys[0][1], source is not self.driving)
            if frame.words(source).is_counted(keys[0][1]):
                many = one.replace("number of", "numbers of", 1)
            if len(keys) > 1:
                one, many = f"combination of {one}", f"combinations of {one}"
            group = NounPhrase(one, many, [])
        if isinstance(self.having, exp.And):
            for part in self.having.flatten():
                group.modifiers.append(self.comparison(part.unnest()))
        elif self.having is not None:
            group.modifiers.append(self.comparison(self.having))
        return group

    def counted(self, item: exp.Count) -> NounPhrase:
        mentioned = tuple(source for source, _ in self.keys)
        if isinstance(item.this, exp.Distinct):
            raise Unsayable("a distinct count of groups")
        return self.speaker.counted_rows(self.frame, self.driving, item, self.cut, mentioned)

    def rows(self, item: exp.Expr) -> NounPhrase:
        mentioned = tuple(source for source, _ in self.keys)
        mentioned += self.speaker.mentioned(self.frame, [item])
        return self.frame.rows(self.driving, self.cut, mentioned)

    def measure(self, item: exp.Expr) -> str:
        """An aggregate of each group's rows: "number of visits", "average doctor salary"."""
        if isinstance(item, exp.Count):
            return f"number of {self.counted(item).text(False)}"
        rows = self.rows(item)
        text = self.speaker.aggregate(self.frame, self.driving, item)
        about = self.about is not None
        if not rows.bare or (about and self.frame.column(item.this)[0] is self.driving):
            return f"{text} of {rows.text(False)}"
        if self.rng.random() < 0.4:
            return f"{text} of {rows.text(False)}"
        return text

    def comparison(self, node: exp.Expr) -> Modifier:
        op = _OPERATORS.get(type(node))
        if op is None or not is_literal(node.expression):
            raise Unsayable("HAVING of something else")
        value, item = said(node.expression), node.this.unnest()
        if isinstance(item, exp.Count) and not isinstance(item.this, exp.Distinct):
            rows = self.counted(item)
            return self.rng.choice(phrases.counted(rows.text(True), rows.text(False), op, value))
        if not isinstance(item, exp.Avg | exp.Sum | exp.Min | exp.Max):
            raise Unsayable("HAVING of something else")
        source, column = self.frame.column(item.this)
        rows = self.rows(item)
        words = self.frame.words(source)
        if words.is_time(column):
            raise Unsayable("HAVING of a date")
        name = self.speaker.aggregate(self.frame, self.driving, item)
        if rows.bare:
            apart = source is self.driving and self.about is not None
            if apart:
                measure = words.measure(column, True)
                name = name.replace(words.measure(column), measure)
            return self.rng.choice(phrases.measured(name, op, value))
        return self.rng.choice(phrases.measured(f"{name} of {rows.text(False)}", op, value))

    # Order

    def order(self, group: NounPhrase) -> str:
        if not self.orders:
            return ""
        if len(self.orders) > 1:
            raise Unsayable("groups in an order of several terms")
        term = self.orders[0]
        if not term.node.find(*_AGGREGATES):
            source, column = self.frame.column(term.node)
            if self.limit:
                raise Unsayable("the first groups by name")
            return self.speaker.sorting(self.frame, self.driving, [(term, (source, column))])
        measure = self.measure(term.node)
        if not self.limit:
            way = "from high to low" if term.down else "from low to high"
            order = "descending" if term.down else "ascending"
            how = self.rng.choice((way, f"in {order} order"))
            return f", sorted by {measure} {how}"
        group.limit = "" if self.limit == "1" else self.limit
        group.one, group.definite = self.limit == "1", True
        if isinstance(term.node, exp.Count):
            rows = self.counted(term.node).text(False)
            most = self.rng.choice(("most", "most", "largest number of"))
            if not term.down:
                most = "fewest"
            group.modifiers.append(phrases.having(f"the {most} {rows}"))
            return ""
        degree = "highest" if term.down else "lowest"
        if isinstance(term.node, exp.Max | exp.Min):
            source, column = self.frame.column(term.node.this)
            if self.frame.words(source).is_time(column):
                raise Unsayable("groups by a date")
            if isinstance(term.node, exp.Max) == term.down:
                measure = measure.split(" ", 1)[1]
        group.modifiers.append(phrases.having(f"the {degree} {measure}"))
        return ""

    # Questions

    def shown(self, group: NounPhrase, of: str) -> str:
        """The selected columns of the groups: "genres", "the name and town of the patients"."""
        if self.about is None:
            return of
        words = self.frame.words(self.about)
        if [c for _, c in self.columns] == [words.label]:
            return of
        one = group.one or len(self.columns) > 1
        names = [
            words.measure(c)
            if words.is_counted(c)
            else words.column(c)
            if one
            else words.columns(c)
            for _, c in self.columns
        ]
        return f"the {listing(names)} of {of}"

    def named_groups(self, group: NounPhrase, suffix: str) -> _Told:
        if group.bare:
            if self.about is not None or len(self.keys) > 1:
                rows = self.rows(self.select.args["group"])
                if self.about is None:
                    raise Unsayable("groups for nothing")
                have = f"{rows.text(False)}"
                group.modifiers.append(Modifier("", f"have {have}", f"has {have}"))
            else:
                rows = self.rows(self.select.args["group"])
                thing = f"the different {group.nouns} of {rows.the(self.rng)}{suffix}"
                return _Told(
                    thing, [f"What are {thing}?", f"List {thing}.", thing.removeprefix("the ")]
                )
        the = f"the {group.text()}"
        shown = self.shown(group, the)
        thing = f"{shown}{suffix}"
        verb = "is" if group.one else "are"
        questions = [
            f"{self.rng.choice(_SHOW)} {thing}.",
            thing if group.definite or shown != the else thing.removeprefix("the "),
        ]
        if shown == the:
            for m in self.speaker.predicates(group):
                asked = f"{group.text(without=m)} {m.singular if group.one else m.plural}"
                questions += [f"Which {asked}{suffix}?"] * 3 + [f"What {asked}{suffix}?"]
        else:
            questions.append(f"What {verb} {thing}?")
        return _Told(thing, questions)

    def measured_groups(self, group: NounPhrase, suffix: str) -> _Told:
        measures = [self.measure(item) for item in self.aggregates]
        what = listing(measures)
        if group.definite:
            return self.first_groups(group, what, suffix)
        each = group.text(True)
        shown = self.shown(group, f"each {each}")
        thing = f"the {what} for each {each}{suffix}"
        first_key = self.items[0] is not self.aggregates[0]
        its = "their" if self.about and self.frame.words(self.about).is_person else "its"
        verb = "is" if len(measures) == 1 else "are"
        if shown != f"each {each}":
            thing = f"{shown} and the {what}{suffix}"
            return _Told(
                thing,
                [
                    f"{self.rng.choice(_SHOW)} {shown} with {its} {what}{suffix}.",
                    f"For each {each}, show {shown.split(' of ')[0]} and the {what}{suffix}.",
                    thing.removeprefix("the "),
                ],
            )
        questions = [
            f"What {verb} {thing}?",
            f"{what} {self.rng.choice(('per', 'for each', 'for every'))} {each}{suffix}",
            f"{self.rng.choice(('Show', 'Give', 'Find'))} {thing}.",
        ]
        if first_key:
            questions.append(
                f"{self.rng.choice(('Show', 'List'))} each {each} with {its} {what}{suffix}."
            )
        if not group.modifiers:
            questions.append(f"{what} by {each}{suffix}")
        if len(measures) == 1 and isinstance(self.aggregates[0], exp.Count):
            rows = self.counted(self.aggregates[0]).text(False)
            questions += [f"How many {rows} are there for each {each}{suffix}?"] * 2
            questions.append(f"How many {rows} are there per {each}{suffix}?")
            if self.about is not None:
                questions += [f"How many {rows} does each {each} have{suffix}?"] * 2
        return _Told(thing, questions)

    def first_groups(self, group: NounPhrase, what: str, suffix: str) -> _Told:
        its = "its" if group.one else "their"
        if self.about and self.frame.words(self.about).is_person:
            its = "their"
        the = self.shown(group, f"the {group.text()}")
        thing = f"{the}, and {its} {what}{suffix}"
        questions = [f"{self.rng.choice(_SHOW)} {thing}.", thing]
        if the.startswith(f"the {group.text()}"):
            for m in self.speaker.predicates(group):
                asked = f"{group.text(without=m)} {m.singular if group.one else m.plural}"
                questions.append(f"Which {asked}, and what is {its} {what}?")
        return _Told(thing, questions)
