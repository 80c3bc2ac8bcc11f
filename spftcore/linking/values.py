"""Value linking: which values of the database a question mentions, and in which columns."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spftcore.databases import Database
from spftcore.linking.features import (
    FEATURES,
    Place,
    Surroundings,
    asks_for_pattern,
    denies,
    features,
    place,
)
from spftcore.linking.index_file import indexed_columns, open_index
from spftcore.linking.look_up import LONGEST_SPAN, Entry, LookUp, of_column, spans, with_keys
from spftcore.linking.names import Mention, Mentions, SchemaNames
from spftcore.linking.weights import SAME_SPAN, VALUE_BIAS, VALUE_WEIGHTS
from spftcore.linking.words import tokens, words

LONGEST_MENTION = 60  # characters of an exact mention
MOST_RANKED = 40  # candidates whose features are looked at: those of the longest runs


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A value of `table.column` that a question mentions, spelled as in the database.

    `score` is the estimated probability that the query needs it; 1 for exact mentions.
    """

    table: str
    column: str
    value: str | int | float
    score: float = 1.0


class Candidate(NamedTuple):
    """A value compared with a question: the entry, its place in the question, its features."""

    entry: Entry
    place: Place
    features: tuple[float, ...]


class ValueIndex:
    """The distinct values of one database, looked up by a question's words.

    Args:
        database: its tables and columns; columns that are `sensitive` are left out.
        cache: folder for the index file; None: `$XDG_CACHE_HOME/spftcore`.

    Raises:
        SpftError: the database cannot be read.
    """

    def __init__(self, database: Database, cache: Path | None = None) -> None:
        self._columns = indexed_columns(database)
        self._index = open_index(database, cache)
        self._names = SchemaNames(database)
        tables = {table.name: number for number, table in enumerate(database.tables)}
        self._places = [
            (tables[table.name], table.columns.index(column)) for table, column in self._columns
        ]
        self._keys = [
            column.primary_key or database.is_foreign_key(table.name, column.name)
            for table, column in self._columns
        ]
        self._flags = {
            number: of_column(self._index, number)
            for number, (_, column) in enumerate(self._columns)
            if column.kind == "boolean"
        }

    def close(self) -> None:
        """Closes the index file."""
        self._index.close()

    def mentions(self, question: str, limit: int = 8) -> list[ValueMatch]:
        """Values of text columns whose very words stand in the question, longest spans first
        taken, in the order of the question; a value of several columns is listed once for each.

        The `linked` prompt shows them: a small model learns from what is always the same.
        """
        asked = words(question)
        keys = [key for _, _, key in spans([token.stem for token in tokens(question)])]
        by_words: dict[tuple[str, ...], list[Entry]] = {}
        for entry in sorted(with_keys(self._index, keys, 1000), key=lambda entry: entry.id):
            value, (_, column) = entry.value, self._columns[entry.column]
            if (
                isinstance(value, str)
                and column.kind == "text"
                and len(value) <= LONGEST_MENTION
                and not value.isdigit()
            ):
                by_words.setdefault(tuple(words(value)), []).append(entry)
        found: list[tuple[int, Entry]] = []
        taken = [False] * len(asked)
        for length in range(min(LONGEST_SPAN, len(asked)), 0, -1):
            for start in range(len(asked) - length + 1):
                entries = by_words.get(tuple(asked[start : start + length]))
                if entries and not any(taken[start : start + length]):
                    taken[start : start + length] = [True] * length
                    found += [(start, entry) for entry in entries]
        found.sort(key=lambda item: item[0])
        return [self.match(entry) for _, entry in found[:limit]]

    def link(self, question: str, limit: int = 5, evidence: str = "") -> list[ValueMatch]:
        """The values the question most likely means, the likeliest first.

        Args:
            question: natural-language question.
            limit: largest number of matches.
            evidence: what else is known of the question (BIRD's hints); searched as well.
        """
        scored = [(_probability(c.features), c) for c in self.candidates(question, evidence)]
        scored.sort(key=lambda item: (-item[0], item[1].entry.id))
        return [self.match(c.entry, score) for score, c in _spread_over_spans(scored, limit)]

    def candidates(self, question: str, evidence: str = "") -> list[Candidate]:
        """Every value compared with the question, with its features."""
        text = f"{question} ; {evidence}" if evidence else question
        asked = tokens(text)
        if not asked:
            return []
        mentions = self._names.match(asked)
        look_up = LookUp(self._index, text, asked, mentions.similarity)
        placed = []
        for entry in look_up.entries():
            at = place(entry, asked, look_up)
            if at is not None:
                placed.append((entry, at))
        # A number of one digit stands in many columns, a long text means what it says.
        placed.sort(
            key=lambda item: (
                -item[1].run,
                not isinstance(item[0].value, str),
                -len(str(item[0].value)),
                item[0].id,
            )
        )
        placed = placed[:MOST_RANKED]
        seen = {entry.id for entry, _ in placed}
        for column, entries in self._flags.items():
            for position in self._mention(mentions, column).positions[:1]:
                at = Place(position, position + 1, 0.0, 0.0, True)
                placed += [(entry, at) for entry in entries if entry.id not in seen]
        spread = Counter(entry.key for entry, _ in placed)
        whole = {(p.start, p.end) for _, p in placed if p.run == 1.0 and p.end - p.start > 1}
        denied, pattern = denies(asked), asks_for_pattern(asked)
        result = []
        for entry, at in placed:
            around = Surroundings(
                asked=asked,
                text=text,
                table=mentions.tables[self._places[entry.column][0]],
                column=self._mention(mentions, entry.column),
                similarity=mentions.similarity,
                is_key=self._keys[entry.column],
                is_flag=entry.column in self._flags,
                spread=spread[entry.key],
                inside=any(
                    start <= at.start and at.end <= end and (start, end) != at[:2]
                    for start, end in whole
                ),
                denied=denied,
                pattern=pattern,
            )
            result.append(Candidate(entry, at, features(entry, at, around)))
        return result

    def _mention(self, mentions: Mentions, column: int) -> Mention:
        table, number = self._places[column]
        return mentions.columns[table][number]

    def match(self, entry: Entry, score: float = 1.0) -> ValueMatch:
        table, column = self._columns[entry.column]
        return ValueMatch(table.name, column.name, entry.value, score)


_WEIGHTS = [VALUE_WEIGHTS[name] for name in FEATURES]


def _probability(values: tuple[float, ...]) -> float:
    total = VALUE_BIAS + sum(w * v for w, v in zip(_WEIGHTS, values, strict=True))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))


def _spread_over_spans(
    scored: list[tuple[float, Candidate]], limit: int
) -> list[tuple[float, Candidate]]:
    """The best candidates, so that one span of the question does not take all places: each
    further candidate of a span counts less."""
    chosen: list[tuple[float, Candidate]] = []
    left = list(scored)
    uses: Counter[int] = Counter()  # of the tokens
    while left and len(chosen) < limit:
        weights = [score * SAME_SPAN ** uses[c.place.start] for score, c in left]
        best = left.pop(weights.index(max(weights)))
        chosen.append(best)
        uses.update(range(best[1].place.start, best[1].place.end))
    return chosen
