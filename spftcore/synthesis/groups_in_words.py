"""A SELECT with GROUP BY in words."""

from __future__ import annotations

from sqlglot import exp

from spftcore.databases import Column
from spftcore.synthesis import phrases
from spftcore.synthesis.aggregates_in_words import AGGREGATES, SHOW, AggregateSpeaker, Order, Told
from spftcore.synthesis.conditions_in_words import OPERATORS, Unsayable, is_literal, said
from spftcore.synthesis.phrases import Modifier, NounPhrase
from spftcore.synthesis.resolve import Source
from spftcore.synthesis.rows_in_words import Frame
from spftcore.synthesis.wording import listing


class Groups:
    """A SELECT with GROUP BY."""

    def __init__(
        self,
        speaker: AggregateSpeaker,
        frame: Frame,
        items: list[exp.Expr],
        orders: list[Order],
        limit: str,
    ) -> None:
        self.speaker, self.frame, self.rng = speaker, frame, speaker.rng
        self.orders, self.limit = orders, limit
        self.select = frame.select
        if self.select.args.get("distinct"):
            raise Unsayable("DISTINCT over groups")
        self.keys = [self.key(n.unnest()) for n in self.select.args["group"].expressions]
        self.items = items
        having = self.select.args.get("having")
        self.having = having.this.unnest() if having is not None else None
        self.aggregates = [i for i in items if i.find(*AGGREGATES)]
        self.columns = [self.key(i) for i in items if not i.find(*AGGREGATES)]
        for node in (self.select.args["group"], self.having, *self.aggregates):
            if node is not None:
                frame.guard(node)
        driving = frame.driving()
        if driving is None:
            raise Unsayable("rows that are pairs of rows")
        self.driving = driving

    def told(self) -> Told:
        if not self.columns and len(self.keys) != 1:
            raise Unsayable("aggregates of groups that are not named")
        group = self.group()
        suffix = self.order(group)
        if not self.aggregates:
            return self.named_groups(group, suffix)
        return self.measured_groups(group, suffix)

    def key(self, node: exp.Expr) -> tuple[Source, Column]:
        """A grouped column; a joined foreign key stands for the key that it refers to."""
        source, column = self.frame.column(node)
        for edge in self.frame.edges:
            parent = self.frame.words(edge.parent)
            if edge.child is source and edge.column is column and parent.key is not None:
                return edge.parent, parent.key
        return source, column

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
                if self.columns and set(map(_place, self.columns)) != set(map(_place, keys)):
                    raise Unsayable("some of a group's columns")
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
        return self.speaker.counted_rows(self.frame, self.driving, item, self.cut, mentioned)

    def rows(self, item: exp.Expr) -> NounPhrase:
        mentioned = tuple(source for source, _ in self.keys)
        mentioned += self.speaker.mentioned(self.frame, [item])
        return self.frame.rows(self.driving, self.cut, mentioned)

    def measure(self, item: exp.Expr) -> str:
        """An aggregate of each group's rows: "number of visits", "average doctor salary"."""
        if isinstance(item, exp.Count) and isinstance(item.this, exp.Distinct):
            names = self.speaker.distinct_names(self.frame, item.this)
            rows = self.rows(item)
            return f"number of different {names}{'' if rows.bare else f' of {rows.text(False)}'}"
        if isinstance(item, exp.Count):
            return f"number of {self.counted(item).text(False)}"
        rows = self.rows(item)
        text = self.speaker.aggregate(self.frame, self.driving, item)
        elsewhere = (self.frame.column(item.this)[0] is self.driving) != (self.about is None)
        if not rows.bare or elsewhere or self.rng.random() < 0.4:
            return f"{text} of {rows.text(False)}"
        return text

    def comparison(self, node: exp.Expr) -> Modifier:
        op = OPERATORS.get(type(node))
        if op is None or not is_literal(node.expression):
            raise Unsayable("HAVING of something else")
        value, item = said(node.expression), node.this.unnest()
        if isinstance(item, exp.Count) and not isinstance(item.this, exp.Distinct):
            rows = self.counted(item)
            return self.rng.choice(phrases.counted(rows.text(True), rows.text(False), op, value))
        if isinstance(item, exp.Count) and self.rows(item).bare:
            names = f"different {self.speaker.distinct_names(self.frame, item.this)}"
            return self.rng.choice(phrases.counted(names, names, op, value))
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
        if not term.node.find(*AGGREGATES):
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
        group.one = self.limit == "1"
        distinct = isinstance(term.node.this, exp.Distinct)
        if isinstance(term.node, exp.Count) and not distinct:
            rows = self.counted(term.node).text(False)
            most = self.rng.choice(("most", "most", "largest number of"))
            if not term.down:
                most = "fewest"
            group.best = phrases.having(f"the {most} {rows}")
            return ""
        degree = "highest" if term.down else "lowest"
        if isinstance(term.node, exp.Max | exp.Min):
            source, column = self.frame.column(term.node.this)
            if self.frame.words(source).is_time(column):
                raise Unsayable("groups by a date")
            if isinstance(term.node, exp.Max) == term.down:
                measure = measure.split(" ", 1)[1]
        group.best = phrases.having(f"the {degree} {measure}")
        return ""

    # Questions

    def shown(self, group: NounPhrase, of: str) -> str:
        """The selected columns of the groups: "genres", "the name and town of the patients"."""
        if self.about is None or not self.columns:
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

    def named_groups(self, group: NounPhrase, suffix: str) -> Told:
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
                return Told(
                    thing, [f"What are {thing}?", f"List {thing}.", thing.removeprefix("the ")]
                )
        the = f"the {group.text()}"
        shown = self.shown(group, the)
        thing = f"{shown}{suffix}"
        verb = "is" if group.one else "are"
        questions = [
            f"{self.rng.choice(SHOW)} {thing}.",
            thing if group.best is not None or shown != the else thing.removeprefix("the "),
        ]
        if shown == the:
            for m in group.predicates():
                asked = f"{group.text(without=m)} {m.singular if group.one else m.plural}"
                questions += [f"Which {asked}{suffix}?"] * 3 + [f"What {asked}{suffix}?"]
        else:
            questions.append(f"What {verb} {thing}?")
        return Told(thing, questions)

    def measured_groups(self, group: NounPhrase, suffix: str) -> Told:
        measures = [self.measure(item) for item in self.aggregates]
        what = listing(measures)
        if group.best is not None:
            return self.first_groups(group, what, suffix)
        each = group.text(True)
        shown = self.shown(group, f"each {each}")
        thing = f"the {what} for each {each}{suffix}"
        first_key = self.items[0] is not self.aggregates[0]
        its = "their" if self.about and self.frame.words(self.about).is_person else "its"
        verb = "is" if len(measures) == 1 else "are"
        if shown != f"each {each}":
            thing = f"{shown} and the {what}{suffix}"
            return Told(
                thing,
                [
                    f"{self.rng.choice(SHOW)} {shown} with {its} {what}{suffix}.",
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
        only = self.aggregates[0] if len(measures) == 1 else None
        if isinstance(only, exp.Count) and not isinstance(only.this, exp.Distinct):
            rows = self.counted(only).text(False)
            questions += [f"How many {rows} are there for each {each}{suffix}?"] * 2
            questions.append(f"How many {rows} are there per {each}{suffix}?")
            if self.about is not None:
                questions += [f"How many {rows} does each {each} have{suffix}?"] * 2
        return Told(thing, questions)

    def first_groups(self, group: NounPhrase, what: str, suffix: str) -> Told:
        its = "its" if group.one else "their"
        if self.about and self.frame.words(self.about).is_person:
            its = "their"
        the = self.shown(group, f"the {group.text()}")
        thing = f"{the}, and {its} {what}{suffix}"
        questions = [f"{self.rng.choice(SHOW)} {thing}.", thing]
        if the.startswith(f"the {group.text()}"):
            for m in group.predicates():
                asked = f"{group.text(without=m)} {m.singular if group.one else m.plural}"
                questions.append(f"Which {asked}, and what is {its} {what}?")
        return Told(thing, questions)


def _place(column: tuple[Source, Column]) -> tuple[int, str]:
    return id(column[0]), column[1].name
