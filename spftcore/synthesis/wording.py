"""English words for a schema: nouns of tables and columns, and how values of a column are said."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from spftcore.databases import Column, Database, Table

_IRREGULAR = {
    "person": "people",
    "child": "children",
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "mouse": "mice",
    "series": "series",
    "species": "species",
    "diagnosis": "diagnoses",
    "analysis": "analyses",
    "crisis": "crises",
    "basis": "bases",
    "movie": "movies",
    "bus": "buses",
    "shoe": "shoes",
    "house": "houses",
    "campus": "campuses",
    "hero": "heroes",
    "superhero": "superheroes",
    "headquarters": "headquarters",
}
_SINGULAR = {plural: singular for singular, plural in _IRREGULAR.items()}
# Nouns without a plural: the rows of such a table are entries.
_MASS_TEXT = """
    stock staff equipment inventory furniture weather information data history music
"""
_MASS = frozenset(_MASS_TEXT.split())
_NOT_PLURAL_TEXT = """
    address status class business process address bus gas lens access
"""
_NOT_PLURAL = frozenset(_NOT_PLURAL_TEXT.split())
_PEOPLE_TEXT = """
    person people doctor patient author member coach player driver teacher student customer
    employee singer artist user client manager physician nurse professor instructor actor
    director writer candidate voter guest owner friend resident tourist conductor composer
    captain pilot scientist researcher engineer chef judge lawyer advisor faculty worker editor
    journalist reviewer visitor staff passenger follower entrepreneur swimmer gymnast wrestler
    jockey musician climber host mechanic participant perpetrator poker_player
"""
_PEOPLE = frozenset(_PEOPLE_TEXT.split())
_MAKERS_TEXT = """
    author writer composer artist painter director creator photographer
"""
_MAKERS = frozenset(_MAKERS_TEXT.split())
_PLACES_TEXT = """
    city town country region nation state hometown headquarters continent county district
    province village location birthplace neighborhood borough
"""
_PLACES = frozenset(_PLACES_TEXT.split())
# Columns whose values go before the noun: "Fantasy books", "Express trains".
_CATEGORIES_TEXT = """
    kind type category genre specialty speciality subject level position tier class form style
    colour color brand model gender sex status surface channel insurance format
"""
_CATEGORIES = frozenset(_CATEGORIES_TEXT.split())
# Of these, the ones that must be said: "First class tickets", not "First tickets".
_SAID_CATEGORIES = frozenset(("class", "form", "style", "status", "surface", "insurance", "model"))
# Past participles as column names, and the noun of what they date.
_PARTICIPLES = {
    "founded": "founding",
    "hired": "hiring",
    "opened": "opening",
    "joined": "joining",
    "sold": "sale",
    "born": "birth",
    "built": "construction",
    "established": "establishment",
    "created": "creation",
    "released": "release",
    "published": "publication",
    "closed": "closing",
    "issued": "issue",
    "signed": "signing",
    "elected": "election",
    "registered": "registration",
    "updated": "update",
    "ordered": "order",
    "shipped": "shipping",
    "delivered": "delivery",
    "paid": "payment",
    "launched": "launch",
}
_ACTIVE = frozenset(("joined",))  # "members who joined", not "members joined"
_OLD_AND_NEW = frozenset(("founded", "opened", "built", "established"))


@dataclass(frozen=True)
class Scale:
    """How people compare on a measure.

    `verb` is (participle, plural, singular) of "costing more than"; `more` and `less` are
    comparatives ("older", "younger"); `most` and `least` superlatives.
    """

    family: str
    most: str
    least: str
    more: str = ""
    less: str = ""
    verb: tuple[str, str, str] | None = None
    people_only: bool = False


_COSTS = Scale("cost", "most expensive", "cheapest", verb=("costing", "cost", "costs"))
_PAY = Scale("pay", "best paid", "worst paid", verb=("earning", "earn", "earns"), people_only=True)
_SCALES = {
    "age": Scale("age", "oldest", "youngest", "older", "younger"),
    "price": _COSTS,
    "cost": _COSTS,
    "weight": Scale("weight", "heaviest", "lightest", verb=("weighing", "weigh", "weighs")),
    "height": Scale("height", "tallest", "shortest", "taller", "shorter"),
    "speed": Scale("speed", "fastest", "slowest", "faster", "slower"),
    "length": Scale("length", "longest", "shortest", "longer", "shorter"),
    "salary": _PAY,
    "wage": _PAY,
}


def is_person(noun: str) -> bool:
    """Whether a noun in the singular names people."""
    return noun in _PEOPLE


def singular(words: str) -> str:
    """The last of some words in the singular."""
    head, _, last = words.rpartition(" ")
    head += " " if head else ""
    if last in _SINGULAR:
        return head + _SINGULAR[last]
    if last in _IRREGULAR or last in _NOT_PLURAL or last in _MASS:
        return words
    if last.endswith("ies") and len(last) > 4:
        return head + last[:-3] + "y"
    if re.search(r"(ss|sh|ch|x|z)es$", last):
        return head + last[:-2]
    if last.endswith("s") and not re.search(r"(ss|us|is)$", last):
        return head + last[:-1]
    return words


def plural(words: str) -> str:
    """The last of some words in the plural."""
    head, _, last = words.rpartition(" ")
    head += " " if head else ""
    if last in _SINGULAR:
        return words
    if last in _IRREGULAR:
        return head + _IRREGULAR[last]
    if last.endswith("s") and singular(last) != last:
        return words
    if re.search(r"[^aeiou]y$", last):
        return head + last[:-1] + "ies"
    return words + ("es" if re.search(r"(s|sh|ch|x|z)$", last) else "s")


def article(words: str) -> str:
    """Some words with "a" or "an" before them."""
    vowel = re.match(r"[aio]|e(?!u)|u(?!ni[^mn]|se|til)|hour|honou?r|honest", words, re.IGNORECASE)
    return f"{'an' if vowel else 'a'} {words}"


def listing(parts: list[str], last: str = "and") -> str:
    """Parts as "a, b and c"; nothing for none."""
    if not parts:
        return ""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def _spoken(name: str, otherwise: str = "column") -> str:
    """A name in lower-case words; a name of no words (`_`) is itself, and '' is `otherwise`."""
    return " ".join(name.lower().replace("_", " ").split()) or name.strip() or otherwise


class TableWords:
    """The words for one table and its columns."""

    def __init__(self, database: Database, table: Table) -> None:
        self.database = database
        self.table = table
        name = " ".join(table.natural_name.lower().split()) or _spoken(table.name, "table")
        self._stem = singular(name)
        last = self._stem.split()[-1]
        self.is_person = last in _PEOPLE
        self.by = "by" if last in _MAKERS else "of"
        if last in _MASS and not self.is_person:
            self.noun, self.nouns = f"{name} entry", f"{name} entries"
        else:
            self.noun, self.nouns = self._stem, plural(self._stem)
        self._own = self._own_words()
        self.label = next((c for c in table.columns if self._is_label(c)), None)
        key = table.primary_key
        self.key = key[0] if len(key) == 1 else None
        # Where a schema says of some columns that they are never NULL, the others may be.
        self._declares = any(c.not_null and not c.primary_key for c in table.columns)

    def nullable(self, column: Column) -> bool:
        """Whether NULL has to be reckoned with in a column."""
        never = column.not_null or column.primary_key
        return column.has_null or (self._declares and not never)

    def own(self, column: Column) -> str:
        """A column's words without the table's name in front, lower case; unlike those of any
        other column of the table."""
        if self.table.find(column.name) is column:
            return self._own[column.name]
        return self._without_table(_spoken(column.natural_name))  # of another table

    def _own_words(self) -> dict[str, str]:
        short = {c.name: self._without_table(_spoken(c.natural_name)) for c in self.table.columns}
        used = Counter(singular(words) for words in short.values())
        if max(used.values(), default=0) < 2:
            return short
        found: dict[str, str] = {}
        taken: set[str] = set()
        for column in self.table.columns:
            words = short[column.name]
            if used[singular(words)] > 1:
                longer = (words, _spoken(column.natural_name), _spoken(column.name))
                free = [way for way in longer if singular(way) not in taken]
                words = free[0] if free else f"{words} field"
            taken.add(singular(words))
            found[column.name] = words
        return found

    def _without_table(self, words: str) -> str:
        for prefix in (self._stem, plural(self._stem)):
            if words.startswith(prefix + " "):
                words = words[len(prefix) + 1 :]
        return words

    def column(self, column: Column, qualified: bool = False) -> str:
        """A column as a noun in the singular: "hiring date"; qualified: "doctor hiring date"."""
        words = self.own(column)
        if words in _PARTICIPLES:
            words = f"{_PARTICIPLES[words]} {'date' if column.kind == 'date' else 'year'}"
        elif not self.is_counted(column):
            words = singular(words) if column.kind == "text" else words
        return f"{self._stem} {words}" if qualified else words

    def measure(self, column: Column, qualified: bool = False) -> str:
        """A column as an amount: "number of pages", "price"."""
        if self.is_counted(column):
            of = f"{self._stem} " if qualified else ""
            return f"number of {of}{self.own(column)}"
        return self.column(column, qualified)

    def amount(self, column: Column, qualified: bool = False) -> str:
        """What a column counts: "pages", qualified "book pages"."""
        return f"{self._stem} {self.own(column)}" if qualified else self.own(column)

    def columns(self, column: Column, qualified: bool = False) -> str:
        """A column in the plural: "hiring dates"."""
        words = self.column(column, qualified)
        return words if self.is_counted(column) or words.split()[-1] in _MASS else plural(words)

    def is_counted(self, column: Column) -> bool:
        """Whether a number column counts things: pages, beds, employees."""
        own = self.own(column)
        last = own.split()[-1]
        return (
            column.kind == "number"
            and " in " not in own  # "price in dollars" is no number of dollars
            and not self.is_key(column)
            and (last == "staff" or (last in _SINGULAR or singular(last) != last))
        )

    def is_key(self, column: Column) -> bool:
        """Whether a column identifies rows, here or elsewhere."""
        return (
            column.primary_key
            or self.database.is_foreign_key(self.table.name, column.name)
            or self.own(column).split()[-1] in ("id", "code")
        )

    def is_year(self, column: Column) -> bool:
        """Whether a number column holds years."""
        if column.kind == "date" or self.is_key(column):
            return False
        words = self.own(column).split()
        numbers = [float(v) for v in column.examples if re.fullmatch(r"\d+(\.0)?", str(v))]
        years = bool(numbers) and all(1000 <= n <= 2100 for n in numbers)
        return years and ("year" in words or words[-1] in _PARTICIPLES)

    def is_time(self, column: Column) -> bool:
        return column.kind == "date" or self.is_year(column)

    def time_verb(self, column: Column) -> tuple[str, str, str] | None:
        """("hired", "were hired", "was hired"); empty where the rows themselves have a time."""
        words = self.own(column)
        if words in ("birth year", "birth date", "date of birth", "birthday", "year of birth"):
            return "born", "were born", "was born"
        if words in _ACTIVE:
            who = "who" if self.is_person else "that"
            return f"{who} {words}", words, words
        if words in _PARTICIPLES:
            return words, f"were {words}", f"was {words}"
        others = [c for c in self.table.columns if c is not column and self.is_time(c)]
        if words in ("date", "year") and not others:
            return "", "", ""
        return None

    def scale(self, column: Column) -> Scale | None:
        """How rows compare on a column, where people have words for it and it is not in doubt."""
        words = self.own(column)
        scale = _SCALES.get(words)
        if scale is None or column.kind != "number" or (scale.people_only and not self.is_person):
            return None
        for other in self.table.columns:
            last = self.own(other).split()[-1]
            if other is not column and last in _SCALES and _SCALES[last].family == scale.family:
                return None
        return scale

    def extremes(self, column: Column) -> tuple[str, str] | None:
        """Superlatives of a row by a column, (highest, lowest): ("most expensive", "cheapest")."""
        words = self.own(column)
        scale = self.scale(column)
        if scale is not None:
            return scale.most, scale.least
        if words in ("birth year", "birth date") and self.is_person:
            return "youngest", "oldest"
        if words in _OLD_AND_NEW and not self.is_person:
            return "newest", "oldest"
        if words == "date" and self.time_verb(column) is not None:
            return "latest", "earliest"
        return None

    def is_place(self, column: Column) -> bool:
        return column.kind == "text" and self.own(column).split()[-1] in _PLACES

    def is_category(self, column: Column) -> bool:
        return column.kind == "text" and self.own(column).split()[-1] in _CATEGORIES

    def stands_alone(self, column: Column) -> bool:
        """Whether a category's value before the noun says enough: "Fantasy books"."""
        return self.own(column).split()[-1] not in _SAID_CATEGORIES

    def _is_label(self, column: Column) -> bool:
        return column.kind == "text" and self.own(column) in ("name", "title", "full name")
