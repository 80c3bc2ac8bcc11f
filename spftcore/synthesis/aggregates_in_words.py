"""Aggregates of rows in words, with and without a question around them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sqlglot import exp

from spftcore.databases import Column, Database
from spftcore.synthesis import phrases
from spftcore.synthesis.conditions_in_words import Unsayable, is_literal
from spftcore.synthesis.phrases import Modifier, NounPhrase
from spftcore.synthesis.resolve import Source
from spftcore.synthesis.rows_in_words import Edge, Frame
from spftcore.synthesis.wording import TableWords, listing

SHOW = ("Show", "List", "Give", "Find", "Tell me", "Give me")
AGGREGATES = (exp.Count, exp.Avg, exp.Sum, exp.Min, exp.Max)


@dataclass
class Told:
    """A query in words: as a thing ("the average price of books") and as whole questions."""

    thing: str
    questions: list[str]


@dataclass(frozen=True)
class Order:
    """One term of ORDER BY: a column of a table, or an aggregate."""

    node: exp.Expr
    down: bool


class AggregateSpeaker:
    """Puts aggregates and orders into words."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self.database, self.rng = database, rng
        self._style = rng.randrange(3)  # "lowest and highest", not "lowest and maximum"

    def sorting(
        self, frame: Frame, root: Source, terms: list[tuple[Order, tuple[Source, Column]]]
    ) -> str:
        parts = []
        for term, (source, column) in terms:
            words = frame.words(source)
            name = words.measure(column, source is not root)
            if column.kind == "text":
                ways: tuple[str, ...] = (
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

    # Aggregates of all rows

    def aggregates(self, frame: Frame, items: list[exp.Expr]) -> Told:
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
        return Told(thing, questions)

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
            return direct(words, column, f"the {one.text()}")
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
        vague = words.own(column) == "date"
        measure = words.measure(column, vague or source is not root)
        if isinstance(item, exp.Avg):
            degrees: tuple[str, ...] = ("average", "average", "mean")
        elif isinstance(item, exp.Sum):
            degrees = ("total", "total", "sum of the")
            if words.is_counted(column):
                degrees = ("total",)
        elif words.is_time(column):
            degrees = ("latest",) if isinstance(item, exp.Max) else ("earliest",)
        elif column.kind == "text":
            raise Unsayable("the first of texts")
        elif isinstance(item, exp.Max):
            degrees = ("highest", "largest", "maximum")
        else:
            degrees = ("lowest", "smallest", "minimum")
        degree = degrees[self._style % len(degrees)]
        if degree == "sum of the":
            return f"{degree} {words.columns(column, source is not root)}"
        return f"{degree} {measure}"

    def count(self, frame: Frame, item: exp.Count) -> Told:
        inner = item.this
        if isinstance(inner, exp.Distinct):
            return self.count_distinct(frame, inner)
        root = frame.driving()
        if root is None:
            raise Unsayable("rows that are pairs of rows")
        phrase = self.counted_rows(frame, root, item)
        text = phrase.text(False)
        thing = f"the number of {text}"
        have = self.rng.choice(("are there", "are there", "do we have", "exist"))
        questions = [
            f"How many {text} {have}?",
            f"Count the {text}.",
            f"number of {text}",
            f"What is {thing}?",
        ]
        questions += [
            f"How many {phrase.text(False, without=m)} {m.plural}?"
            for m in phrase.predicates()
            for _ in range(3)
        ]
        return Told(thing, questions)

    def counted_rows(
        self,
        frame: Frame,
        root: Source,
        item: exp.Count,
        cut: frozenset[Edge] = frozenset(),
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

    def distinct_names(self, frame: Frame, distinct: exp.Distinct) -> str:
        """What the distinct values of a column are called: "genres", "authors"."""
        if len(distinct.expressions) != 1:
            raise Unsayable("a count of several columns")
        source, column = frame.column(distinct.expressions[0].unnest())
        words = frame.words(source)
        if column is words.key:
            return words.nouns
        if words.is_counted(column):
            return f"values of {words.measure(column)}"
        keys = [
            key.ref_table
            for key in self.database.foreign_keys
            if key.table == words.table.name and key.column == column.name
        ]
        alike = [
            key.ref_table
            for key in self.database.foreign_keys
            if key.table == words.table.name and key.ref_table in keys
        ]
        if len(keys) == len(alike) == 1 and words.own(column).endswith(" id"):
            return TableWords(self.database, self.database.table(keys[0])).nouns
        return words.columns(column)

    def count_distinct(self, frame: Frame, distinct: exp.Distinct) -> Told:
        if len(distinct.expressions) != 1:
            raise Unsayable("a count of several columns")
        source, column = frame.column(distinct.expressions[0].unnest())
        words = frame.words(source)
        frame.guard(distinct)
        phrase = frame.rows(source)
        names = self.distinct_names(frame, distinct)
        different = self.rng.choice(("different", "distinct", "different"))
        of = phrase.the(self.rng)
        if column is words.key:
            thing = f"the number of {different} {phrase.text(False)}"
            return Told(
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
        return Told(thing, questions)


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
