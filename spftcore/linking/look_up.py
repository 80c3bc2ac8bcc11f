"""Which entries of an index may be meant: exact spans, other words for them, rare words, typos."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import apsw

from spftcore.linking.dates import dates_in
from spftcore.linking.words import KINDRED, STOP_WORDS, Token, within_one_edit

LONGEST_SPAN = 8  # words of a question that may form one value
LONGEST_KINDRED = 4  # words of the longest phrase that has another word for it
SAME_KEY = 80  # entries with exactly the words of one span of the question
CANDIDATES = 60  # entries that share rare words with the question
RARE = 1000  # entries that hold a word: above, the word alone tells nothing
READ = 2000  # entries ranked by FTS5 at most, over all words of a question
SHORTEST_TYPO = 5  # letters of a word that is looked up with a typo
NEIGHBOURS = 400  # words of the vocabulary compared with such a word at most
ABBREVIATION = 3  # letters of the shortest beginning of a word that stands for it
COMMON_NAME = 20  # entries: a word of the schema that more values hold tells of none of them
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of one column (its number among the indexed ones); `key` are its words' stems."""

    id: int
    column: int
    value: str | int | float
    key: tuple[str, ...]


class LookUp:
    """One question's way through an index.

    Attributes:
        equivalents: keys of values that a span of the question means though it reads otherwise
            (a kindred word, initials, a date in another form), with (start, end) of the span.
        corrected: words of the data that differ by one edit from a word of the question, or
            abbreviate it, with that word's position.
    """

    def __init__(
        self,
        index: apsw.Connection,
        text: str,
        asked: Sequence[Token],
        similarity: Sequence[float],
    ) -> None:
        self._index = index
        self._asked = asked
        self._stems = [token.stem for token in asked]
        self._text = text
        self._similarity = similarity
        self.positions: dict[str, list[int]] = {}
        for position, stem in enumerate(self._stems):
            self.positions.setdefault(stem, []).append(position)
        self.equivalents: dict[str, tuple[int, int]] = {}
        self.corrected: dict[str, int] = {}
        self.dates: dict[int, tuple[int, int]] = {}  # entry: span of the date it is
        self._counts = self._entries_with(self.positions)
        self._find_equivalents()
        for position, token in enumerate(asked):
            if (
                token.stem not in self._counts
                and len(token.text) >= SHORTEST_TYPO
                and token.text.lower() not in STOP_WORDS
            ):
                near = self._abbreviations(token.stem)
                if similarity[position] < 1:
                    near += self._neighbours(token.stem)
                for other in near:
                    if other not in self.positions:
                        self.corrected.setdefault(other, position)
        self._dates = [
            (key, self._tokens_in(start, end))
            for start, end, keys in dates_in(text)
            for key in keys
        ]

    def entries(self) -> list[Entry]:
        """The entries that may be meant, each once, in the order of their ids."""
        digits = {stem for stem in self.positions if stem[0].isdigit()}  # FTS5 holds no numbers
        known = self._counts.keys() | self.corrected.keys() | digits
        keys = [
            key for _, _, key in spans(self._stems) if all(word in known for word in key.split())
        ]
        found = {entry.id: entry for entry in with_keys(self._index, keys, SAME_KEY)}
        for entry in with_keys(self._index, list(self.equivalents), SAME_KEY):
            found[entry.id] = entry
        for key, span in self._dates:
            for entry in self._with_alias(key):
                found[entry.id] = entry
                self.dates[entry.id] = span
        for entry in self._with_rare_words():
            found.setdefault(entry.id, entry)
        return [found[identifier] for identifier in sorted(found)]

    def _find_equivalents(self) -> None:
        stems = self._stems
        for length in range(1, LONGEST_KINDRED + 1):
            for start in range(len(stems) - length + 1):
                end = start + length
                for key in KINDRED.get(" ".join(stems[start:end]), ()):
                    # `us` and `in` are words of their own unless they are written in capitals.
                    if len(self._asked[start].text) > 2 or self._asked[start].text.isupper():
                        self.equivalents.setdefault(key, (start, end))
        for match in _THOUSANDS.finditer(self._text):
            span = self._tokens_in(*match.span())
            self.equivalents.setdefault(match.group().replace(",", ""), span)
        for start in range(len(stems) - 1):
            self.equivalents.setdefault(stems[start] + stems[start + 1], (start, start + 2))
        for start, end in _capital_spans(self._asked):
            initials = "".join(t.stem[0] for t in self._asked[start:end] if t.capital)
            self.equivalents.setdefault(initials, (start, end))

    def _tokens_in(self, start: int, end: int) -> tuple[int, int]:
        inside = [n for n, token in enumerate(self._asked) if start <= token.start < end]
        return inside[0], inside[-1] + 1

    def _entries_with(self, stems: Iterable[str]) -> dict[str, int]:
        found = {}
        for stem in stems:
            row = self._index.execute(
                "select entries from vocabulary where length = ? and word = ?", (len(stem), stem)
            ).fetchone()
            if row:
                found[stem] = row[0]
        return found

    def _abbreviations(self, word: str) -> list[str]:
        """The beginnings of a word that are words of the data."""
        beginnings = [word[:length] for length in range(ABBREVIATION, len(word) - 1)]
        return list(self._entries_with(beginnings))

    def _neighbours(self, word: str) -> list[str]:
        """Words of the data one edit away: one of the word's halves is then left as it is."""
        half = len(word) // 2
        found: set[str] = set()
        for source, step in (("vocabulary", 1), ("backwards", -1)):
            spelled = word[::step]
            prefix = spelled[:half]
            for length in (len(word), len(word) + 1, len(word) - 1):
                rows = self._index.execute(
                    f"select word from {source} where length = ? and word >= ? and word < ?"
                    f" limit {NEIGHBOURS}",
                    (length, prefix, prefix + "\U0010ffff"),
                )
                found.update(o[::step] for (o,) in rows if within_one_edit(spelled, o))
        return sorted(found)

    def _with_alias(self, key: str) -> list[Entry]:
        rows = self._index.execute(
            "select id, column, value, entries.key from aliases join entries on entry = id"
            f" where aliases.key = ? limit {SAME_KEY}",
            (key,),
        )
        return [_entry(*row) for row in rows]

    def _with_rare_words(self) -> list[Entry]:
        """The entries that hold the question's rarest words, ranked by FTS5's bm25."""
        counts = {**self._counts, **self._entries_with(self.corrected)}
        for token, similarity in zip(self._asked, self._similarity, strict=True):
            common = similarity == 1 and counts.get(token.stem, 0) > COMMON_NAME
            if not token.quoted and (common or token.text.lower() in STOP_WORDS):
                counts.pop(token.stem, None)
        terms, budget = [], READ
        for stem, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
            if count > min(RARE, budget):
                break
            terms.append(f'"{stem}"')
            budget -= count
        terms += [
            f'"{token.stem}"*'
            for token in self._asked
            if token.quoted
            and len(token.stem) > 1
            and token.stem not in self._counts
            and self._is_term(token.stem)
        ]
        if not terms:
            return []
        rows = self._index.execute(
            "select id, column, value, entries.key from texts join entries on id = texts.rowid"
            f" where texts match ? order by rank, id limit {CANDIDATES}",
            (" OR ".join(terms),),
        )
        return [_entry(*row) for row in rows]

    def _is_term(self, stem: str) -> bool:
        """Whether FTS5 takes a stem for one word. Some are several to it (`½` folds to `1⁄2`, and
        letters newer than its Unicode part words), and this index has no phrases."""
        with suppress(apsw.SQLError):
            self._index.execute("select 1 from texts where texts match ? limit 1", (f'"{stem}"*',))
            return True
        return False


def with_keys(index: apsw.Connection, keys: Sequence[str], limit: int) -> list[Entry]:
    """The entries whose whole value has one of the keys: of each key up to `limit`, texts before
    numbers, then by id. A number that many columns hold so leaves the other keys theirs."""
    return [
        _entry(*row)
        for key in dict.fromkeys(keys)
        for row in index.execute(
            "select id, column, value, key from entries where key = ?"
            " order by typeof(value) != 'text', id limit ?",
            (key, limit),
        )
    ]


def of_column(index: apsw.Connection, column: int) -> list[Entry]:
    """All entries of one column, in the order of their ids."""
    rows = index.execute(
        "select id, column, value, key from entries where column = ? order by id", (column,)
    )
    return [_entry(*row) for row in rows]


def spans(stems: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, length, key) of every run of words that may be a value, long ones first."""
    return [
        (start, length, " ".join(stems[start : start + length]))
        for length in range(min(LONGEST_SPAN, len(stems)), 0, -1)
        for start in range(len(stems) - length + 1)
    ]


def _entry(identifier: int, column: int, value: str | int | float, key: str) -> Entry:
    return Entry(identifier, column, value, tuple(key.split()))


def _capital_spans(asked: Sequence[Token]) -> list[tuple[int, int]]:
    """Runs of two to five capital words; small words may stand between them."""
    found: list[tuple[int, int]] = []
    for start, first in enumerate(asked):
        capitals = 0
        for end in range(start, min(start + 7, len(asked))):
            if not first.capital:
                break
            if asked[end].capital:
                capitals += 1
                if 2 <= capitals <= 5:
                    found.append((start, end + 1))
            elif asked[end].text not in ("of", "the", "and", "for"):
                break
    return found
