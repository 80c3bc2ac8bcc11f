"""Modifiers of a noun: what a comparison, a range or a count says, in several wordings each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from spftcore.databases import Column
from spftcore.synthesis.wording import TableWords, article, listing, singular

# Measures that take no article: "with shipping above 5".
_UNCOUNTED = frozenset(["shipping", "stock", "attendance", "staff", "revenue"])
NEGATED = {">": "<=", "<": ">=", ">=": "<", "<=": ">", "=": "!=", "!=": "="}


@dataclass(frozen=True)
class Modifier:
    """One condition in words, as attribute and as predicate.

    `before` says that the attribute stands before the noun. Without an attribute of its own the
    predicate becomes a relative clause.
    """

    attribute: str
    plural: str
    singular: str
    before: bool = False

    def after(self, one: bool) -> str:
        return self.attribute or f"that {self.singular if one else self.plural}"


def having(words: str) -> Modifier:
    """ "with …", "have …", "has …"."""
    return Modifier(f"with {words}", f"have {words}", f"has {words}")


def being(words: str) -> Modifier:
    """ "…", "are …", "is …"."""
    return Modifier(words, f"are {words}", f"is {words}")


def verbal(forms: tuple[str, str, str], rest: str) -> Modifier:
    """A verb in its three forms (participle, plural, singular) with what follows it."""
    participle, many, one = forms
    return Modifier(f"{participle} {rest}", f"{many} {rest}", f"{one} {rest}")


def article_of(measure: str) -> str:
    """A measure with its article where it takes one: "a price", "shipping", "an age"."""
    return measure if measure.split()[-1] in _UNCOUNTED else article(measure)


@dataclass
class NounPhrase:
    """Rows in words: "3 Fantasy books with the highest price".

    Attributes:
        noun, nouns: what one row and what several are called.
        modifiers: conditions, each worded for this noun.
        one: a single row is meant (a name or key is given, or `limit 1`).
        name: the one row's name, if that is given.
        limit: how many rows, where a number is asked for.
        best: the superlative that picks the rows, where an order does.
    """

    noun: str
    nouns: str
    modifiers: list[Modifier]
    one: bool = False
    name: str = ""
    limit: str = ""
    best: Modifier | None = None

    @property
    def bare(self) -> bool:
        """Whether nothing but the noun is said."""
        return not (self.modifiers or self.name or self.best or self.one)

    @property
    def definite(self) -> bool:
        """Whether the rows are known ones: "the …"."""
        return self.one or self.best is not None

    def text(self, one: bool | None = None, without: Modifier | None = None) -> str:
        """The phrase without a determiner; `without` leaves one modifier out."""
        one = self.one if one is None else one
        rest = [m for m in self.modifiers if m is not without]
        best = self.best if self.best is not without else None
        words = [self.limit] if self.limit else []
        words += [best.attribute] if best is not None and best.before else []
        words += [m.attribute for m in rest if m.before]
        words.append(self.noun if one else self.nouns)
        if self.name:
            sure = one and self.best is None
            words.append(self.name if sure else f"named {self.name}")
        after = _joined([m for m in rest if not m.before], one)
        if best is None or best.before:
            return " ".join([*words, *after])
        if after and after[0].split()[0] in ("with", "whose", "that"):
            # "the branch with the most seats with 5 staff" could be read in two ways.
            those = _joined([m for m in rest if not m.before], one=False)
            return " ".join([*words, best.after(one), "among those", *those])
        return " ".join([*words, *after, best.after(one)])

    def the(self, rng: random.Random) -> str:
        """The phrase as an object: "the books with …", "all books", the bare name."""
        text = self.text()
        if self.name and not self.modifiers and self.best is None and self.one:
            return rng.choice((self.name, self.name, f"the {text}"))
        if self.definite:
            return f"the {text}"
        every = "" if text.startswith("different ") else "all "
        return rng.choice((f"the {text}", text, f"{every}{text}"))

    def predicates(self) -> list[Modifier]:
        """The modifiers that can become a sentence's verb: "Which books cost more than 5?"."""
        if self.best is not None:
            last = [self.best]
        else:
            last = [m for m in self.modifiers if not m.before][-1:] if not self.name else []
        return [m for m in last if m.singular and m.plural]


def _joined(modifiers: list[Modifier], one: bool) -> list[str]:
    words: list[str] = []
    previous = ""
    for modifier in modifiers:
        text = modifier.after(one)
        start, _, tail = text.partition(" ")
        placed = start in ("by", "of", "for", "from", "in", "on")
        if previous in ("with", "whose", "that") and not placed:
            words.append("and " + (tail if start == previous == "with" else text))
        else:
            words.append(text)
        previous = start
    return words


def counted(one: str, many: str, op: str, value: str) -> list[Modifier]:
    """How many of something rows have: "with more than 300 pages"."""
    noun = one if value == "1" else many
    wordings = {
        ">": ("more than {} {}", "over {} {}"),
        "<": ("fewer than {} {}", "less than {} {}"),
        ">=": ("at least {} {}", "{} or more {m}"),
        "<=": ("at most {} {}", "no more than {} {}", "{} or fewer {m}"),
        "=": ("exactly {} {}", "{} {}"),
        "!=": ("a number of {m} other than {}",),
    }
    return [having(w.format(value, noun, m=many)) for w in wordings[op]]


_MEASURED = {
    ">": ("above {}", "over {}", "of more than {}", "greater than {}"),
    "<": ("below {}", "under {}", "of less than {}", "smaller than {}"),
    ">=": ("of at least {}", "of {} or more"),
    "<=": ("of at most {}", "of no more than {}", "of {} or less"),
    "=": ("of {}", "of exactly {}"),
    "!=": ("other than {}",),
}
_IS = {
    ">": ("is above {}", "is more than {}", "is over {}", "exceeds {}"),
    "<": ("is below {}", "is less than {}", "is under {}"),
    ">=": ("is at least {}", "is {} or more"),
    "<=": ("is at most {}", "is no more than {}", "is {} or less"),
    "=": ("is {}", "equals {}"),
    "!=": ("is not {}",),
}


def measured(measure: str, op: str, value: str) -> list[Modifier]:
    """A measure of rows against a number: "with a price above 5", "whose price is above 5"."""
    mods = [having(f"{article_of(measure)} {w.format(value)}") for w in _MEASURED[op]]
    first = mods[0]
    mods += [
        Modifier(f"whose {measure} {w.format(value)}", first.plural, first.singular)
        for w in _IS[op]
    ]
    return mods


def compared(
    words: TableWords, column: Column, op: str, value: str, literal: bool
) -> list[Modifier]:
    """A number column of rows against a literal, or against a value told in words."""
    own = words.own(column)
    if words.is_counted(column):
        mods = []
        if literal:
            mods = counted(singular(own), own, op, value)
            mods += mods  # the plainest wordings are the commonest
        measure = words.measure(column)
        is_ = [w.format(value) for w in _IS[op]]
        return mods + [
            Modifier(f"whose {measure} {w}", f"have {a}", f"has {a}")
            for w in is_
            for a in (f"{article(measure)} {_MEASURED[op][0].format(value)}",)
        ]
    mods = measured(words.column(column), op, value)
    scale = words.scale(column)
    if scale is None:
        return mods
    extra: list[Modifier] = []
    if scale.verb is not None:
        forms = {
            ">": "more than {}",
            "<": "less than {}",
            ">=": "at least {}",
            "<=": "at most {}",
            "=": "exactly {}",
        }
        if op in forms:
            rest = forms[op].format(value)
            extra.append(verbal(scale.verb, rest))
    if scale.more and op in (">", "<"):
        extra.append(being(f"{scale.more if op == '>' else scale.less} than {value}"))
    if scale.family == "age" and literal:
        aged = {
            ">=": ("aged {} or more", "at least {} years old", "{} or older"),
            "<=": ("aged {} or less", "at most {} years old", "{} or younger"),
            "=": ("aged {}", "{} years old"),
        }
        for wording in aged.get(op, ()):
            text = wording.format(value)
            adjective = not text.startswith("aged")
            who = "who are " if adjective and words.is_person else "that are " if adjective else ""
            extra.append(Modifier(who + text, f"are {text}", f"is {text}"))
    return mods + extra + extra


def above_average(words: TableWords, column: Column, op: str) -> list[Modifier]:
    """A number column of rows against the average of all rows."""
    measure = words.measure(column)
    side = {">": "above", "<": "below"}.get(op)
    value = f"the average {measure}"
    mods = compared(words, column, op, value, literal=False)
    if side is not None:
        mods += [having(f"{article_of(measure)} {side} average")] * 2
        scale = words.scale(column)
        if scale is not None and scale.more:
            more = scale.more if op == ">" else scale.less
            mods += [being(f"{more} than average"), being(f"{more} than the average {words.noun}")]
    return mods


def between(words: TableWords, column: Column, low: str, high: str) -> list[Modifier]:
    """A column of rows within a range."""
    span = f"between {low} and {high}"
    own, verb = words.own(column), words.time_verb(column)
    if words.is_time(column):
        name = words.column(column)
        mods = [having(f"{article(name)} {span}")]
        if verb is not None:
            mods += [_timed(verb, span)] * 2
        return mods
    if words.is_counted(column):
        return [having(f"{span} {own}"), having(f"from {low} to {high} {own}")]
    name = words.column(column)
    have = having(f"{article_of(name)} {span}")
    mods = [have, Modifier(f"whose {name} is {span}", have.plural, have.singular)]
    scale = words.scale(column)
    if scale is not None and scale.family == "age":
        mods += [being(f"aged {span}"), being(f"{span} years old")]
    elif scale is not None and scale.verb is not None:
        mods.append(verbal(scale.verb, span))
    return mods


def timed(
    words: TableWords, column: Column, op: str, value: str, whole_date: bool
) -> list[Modifier]:
    """A date or year of rows against another; `whole_date` says on which, not in which."""
    at = "on" if whole_date else "in"
    wordings = {
        ">": ("after {}",),
        "<": ("before {}",),
        ">=": (f"{at} or after {{}}", "since {}") if whole_date else ("in {} or later", "since {}"),
        "<=": (f"{at} or before {{}}",) if whole_date else ("in {} or earlier",),
        "=": (f"{at} {{}}",),
        "!=": (f"not {at} {{}}",),
    }
    texts = [w.format(value) for w in wordings[op]]
    name, verb = words.column(column), words.time_verb(column)
    preposition = {"=": "of", "!=": "other than"} if whole_date or words.is_year(column) else {}
    mods: list[Modifier] = []
    for text in texts:
        if verb is not None:
            # "books from 1990", but "visits in 2024"
            place = f"from {value}" if words.is_year(column) and op == "=" else text
            mods += [_timed(verb, text if verb[0] else place)] * 2
        if text.startswith("since"):
            continue
        own_text = f"{preposition[op]} {value}" if op in preposition else text
        have = having(f"{article(name)} {own_text}")
        predicate = value if op == "=" and at == "on" else text
        mods += [have, Modifier(f"whose {name} is {predicate}", have.plural, have.singular)]
    return mods


def _timed(verb: tuple[str, str, str], text: str) -> Modifier:
    if verb[0]:
        return verbal(verb, text)
    # The rows themselves have a time: "visits on 2024-05-01".
    return Modifier(text, f"are {text}", f"is {text}")


def equal_texts(words: TableWords, column: Column, values: Sequence[str]) -> list[Modifier]:
    """A text column that has one of some values."""
    value, own = listing(list(values), "or"), words.column(column)
    the = having(f"the {own} {value}")
    with_ = Modifier(f"with {own} {value}", the.plural, the.singular)
    mods = [
        with_,
        the,
        Modifier(f"whose {own} is {value}", with_.plural, with_.singular),
    ]
    last = own.split()[-1]
    if words.is_place(column) and _alone(words, column):
        if last == "headquarters":
            have = having(f"{own} in {value}")
            return [have, Modifier(f"whose {own} are in {value}", have.plural, have.singular)]
        if words.is_person:
            home = being(f"from {value}")
            mods = [Modifier(mods[-1].attribute, home.plural, home.singular), home, home, home]
            if last not in ("nation", "country", "nationality", "birthplace"):
                lives = Modifier(f"living in {value}", f"live in {value}", f"lives in {value}")
                mods += [lives, lives]
        else:
            place = being(f"in {value}")
            mods = [Modifier(mods[-1].attribute, place.plural, place.singular), place, place]
            mods.append(being(f"from {value}"))
    elif last in ("weekday", "day"):
        mods += [being(f"on {value}")] * 2
    elif last == "weather":
        mods += [being(f"in {value} weather")]
    elif words.is_category(column):
        mods.append(Modifier(f"of {own} {value}", with_.plural, with_.singular))
        short = (
            len(values) == 1 and len(value.split()) <= 2 and len(value) > 2 and value[0].isalpha()
        )
        if short:
            if words.stands_alone(column):
                mods += [Modifier(value, with_.plural, with_.singular, before=True)] * 4
            mods.append(Modifier(f"{value} {own}", with_.plural, with_.singular, before=True))
    return mods


def different_texts(words: TableWords, column: Column, values: Sequence[str]) -> list[Modifier]:
    """A text column that has none of some values."""
    value, own = listing(list(values), "or"), words.column(column)
    have = having(f"{article_of(own)} other than {value}")
    is_not = f"is neither {listing(list(values), 'nor')}" if len(values) == 2 else f"is not {value}"
    mods = [have, Modifier(f"whose {own} {is_not}", have.plural, have.singular)]
    if words.is_place(column) and _alone(words, column) and own != "headquarters":
        place = "from" if words.is_person else "in"
        mods.append(being(f"not {place} {value}"))
    return mods


def _alone(words: TableWords, column: Column) -> bool:
    """Whether a column is the only place its table has."""
    return all(c is column or not words.is_place(c) for c in words.table.columns)


def matching(own: str, pattern: str, value: str, negated: bool) -> list[Modifier]:
    """LIKE: "whose name starts with Al"."""
    starts, ends = not pattern.startswith("%"), not pattern.endswith("%")
    if starts and ends:
        return [having(f"{own} {'other than ' if negated else ''}{value}")]
    if negated:
        verbs = {(False, False): "contain", (True, False): "start with", (False, True): "end with"}
        verb = f"does not {verbs[starts, ends]}"
        other = f"{article(own)} that {verb} {value}"
        return [Modifier(f"whose {own} {verb} {value}", f"have {other}", f"has {other}")]
    forms = {
        (False, False): (("contains", "containing"), ("includes", "including")),
        (True, False): (("starts with", "starting with"), ("begins with", "beginning with")),
        (False, True): (("ends with", "ending with"), ("ends in", "ending in")),
    }
    mods = []
    for verb, participle in forms[starts, ends]:
        have = having(f"{article(own)} {participle} {value}")
        mods += [have, Modifier(f"whose {own} {verb} {value}", have.plural, have.singular)]
    if not starts and not ends:
        have = having(f"{value} in their {own}")
        mods.append(Modifier(have.attribute, have.plural, f"has {value} in its {own}"))
    return mods


def unknown(
    words: TableWords, column: Column, negated: bool, parent: TableWords | None = None
) -> list[Modifier]:
    """IS NULL and IS NOT NULL; `parent` is the table that a foreign key refers to."""
    if parent is not None:
        some = article(parent.noun)
        if negated:
            return [having(some)]
        no = having(f"no {parent.noun}")
        return [no, Modifier(f"without {some}", no.plural, no.singular)]
    name = words.measure(column)
    if negated:
        return [having(f"a known {name}"), having(f"{article(name)} recorded")]
    no = having(f"no {name} recorded")
    none = Modifier(f"without a known {name}", f"have no known {name}", f"has no known {name}")
    missing = Modifier(f"whose {name} is unknown", no.plural, no.singular)
    return [no, none, missing]


def flagged(words: TableWords, column: Column, true: bool) -> list[Modifier]:
    """A column of truth values."""
    own = words.own(column)
    first, _, rest = own.partition(" ")
    if first == "is" and rest:
        return [being(rest if true else f"not {rest}")]
    if first == "has" and rest:
        own = rest
    if own.endswith(("ed", "able", "ive", "al")):
        text = own if true else f"not {own}"
        return [Modifier("", f"are {text}", f"is {text}")]
    if true:
        return [having(article(own))]
    return [Modifier(f"without {article(own)}", f"have no {own}", f"has no {own}")]
