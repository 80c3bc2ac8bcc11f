"""Which names of a schema the words of a question mention."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from spftcore.databases import Database
from spftcore.linking.words import Token, name_words, within_one_edit

SIMILAR_PREFIX = 4  # letters that two forms of one word share at least (`populate`, `populous`)


@dataclass(frozen=True, slots=True)
class Mention:
    """How far a question mentions one name.

    `share` is the part of the name's words that the question has, each weighed by its rarity in
    the schema; `weight` is the rarity of the words found, summed; `positions` are the numbers of
    the question's tokens they were found at; `run` is the longest run of the name's words that
    stands together in the question.
    """

    share: float = 0.0
    weight: float = 0.0
    positions: tuple[int, ...] = ()
    run: int = 0


NO_MENTION = Mention()


@dataclass(frozen=True, slots=True)
class Mentions:
    """What a question says of a schema.

    `tables` and `columns` (a list for each table) are in the schema's order; `similarity` tells
    for each token of the question how near it is to its nearest word of the schema.
    """

    tables: list[Mention]
    columns: list[list[Mention]]
    similarity: list[float]


class SchemaNames:
    """The words of all table and column names of one database, weighed by their rarity."""

    def __init__(self, database: Database) -> None:
        self.tables = [name_words(table.name, table.natural_name) for table in database.tables]
        self.columns = [
            [name_words(column.name, column.natural_name) for column in table.columns]
            for table in database.tables
        ]
        names = [*self.tables, *(name for columns in self.columns for name in columns)]
        counts = Counter(
            word for name in names for word in {word for reading in name for word in reading}
        )
        self.rarity = {
            word: math.log(1 + len(names) / count) / math.log(1 + len(names))
            for word, count in counts.items()
        }
        self._by_letter: dict[str, list[str]] = {}
        for word in counts:
            self._by_letter.setdefault(word[0], []).append(word)

    def match(self, question: Sequence[Token]) -> Mentions:
        """The names that a question mentions."""
        found: dict[str, dict[int, float]] = {}
        for position, token in enumerate(question):
            self._find(token.stem, position, found)
            if position + 1 < len(question):  # `air port` for `airport`
                joined = token.stem + question[position + 1].stem
                if joined in self.rarity:
                    found.setdefault(joined, {}).setdefault(position, 1.0)
        similarity = [0.0] * len(question)
        for at in found.values():
            for position, value in at.items():
                similarity[position] = max(similarity[position], value)
        tables = [self._mention(readings, found) for readings in self.tables]
        columns = [[self._mention(name, found) for name in table] for table in self.columns]
        return Mentions(tables, columns, similarity)

    def _find(self, word: str, position: int, found: dict[str, dict[int, float]]) -> None:
        for other in self._by_letter.get(word[0], ()):
            similarity = similar(word, other)
            if similarity:
                found.setdefault(other, {})[position] = similarity

    def _mention(
        self, readings: tuple[tuple[str, ...], ...], found: dict[str, dict[int, float]]
    ) -> Mention:
        mentions = [self._reading(words, found) for words in readings]
        return max(mentions, key=lambda mention: mention.share, default=NO_MENTION)

    def _reading(self, words: tuple[str, ...], found: dict[str, dict[int, float]]) -> Mention:
        total = weight = 0.0
        positions: list[int] = []
        run = longest = 0
        last: set[int] = set()
        for word in words:
            rarity = self.rarity[word]
            total += rarity
            at = found.get(word)
            if not at:
                run, last = 0, set()
                continue
            weight += rarity * max(at.values())
            positions += at
            here = set(at)
            run = run + 1 if any(p - 1 in last for p in here) else 1
            last = here
            longest = max(longest, run)
        if not positions:
            return NO_MENTION
        return Mention(weight / total, weight, tuple(positions), longest)


@lru_cache(maxsize=262_144)
def similar(word: str, other: str) -> float:
    """1 for the same stem, less for a kindred form or a typo of one edit, 0 for another word."""
    if word == other:
        return 1.0
    short, long = sorted((len(word), len(other)))
    if short < SIMILAR_PREFIX:
        return 0.0
    shared = 0
    for a, b in zip(word, other, strict=False):
        if a != b:
            break
        shared += 1
    if shared == short and long - short <= 4:
        return 0.8
    if shared >= SIMILAR_PREFIX and shared >= 0.6 * long:
        return 0.5
    return 0.6 if short > SIMILAR_PREFIX and within_one_edit(word, other) else 0.0
