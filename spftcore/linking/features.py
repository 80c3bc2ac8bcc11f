"""What speaks for a value being meant: where it stands in the question, and what is around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spftcore.linking.look_up import Entry, LookUp
from spftcore.linking.names import Mention
from spftcore.linking.words import STOP_WORDS, Token, fold, stem

FAR = 99  # tokens between a value and its column's name where the name is not there
_YES = frozenset(("yes", "y", "true", "t", "1"))
_NOT = frozenset(("not", "no", "t", "without", "never", "neither", "nor", "non"))

_PATTERN_WORDS = """contain include start begin end like substring letter word"""
_PATTERN = frozenset(stem(word) for word in _PATTERN_WORDS.split())

FEATURES = (
    "whole", "run", "covered", "spelled alike", "but for case", "other words", "quoted", "capital",
    "small words", "digits", "schema word", "letters", "several words", "column named",
    "table named", "column near", "table near", "key", "columns that hold it", "one letter",
    "inside a longer one", "lower case", "flag", "flag as said", "column not named",
    "small words in other case", "part of a pattern", "number",
)  # fmt: skip


class Place(NamedTuple):
    """Where a value stands in the question.

    `start` and `end` bound the longest run of its words, as token numbers; `covered` is the share
    of its letters that the question has; `run` the share in that run; `edited` says that a word
    was taken for another (a typo, a kindred word, a date in another form).
    """

    start: int
    end: int
    covered: float
    run: float
    edited: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the features of a value need besides the value itself."""

    asked: Sequence[Token]
    text: str
    table: Mention
    column: Mention
    similarity: Sequence[float]
    is_key: bool
    is_flag: bool
    spread: int
    inside: bool
    denied: bool
    pattern: bool


def denies(asked: Sequence[Token]) -> bool:
    """Whether a question says no or not."""
    return any(token.text.lower() in _NOT for token in asked)


def asks_for_pattern(asked: Sequence[Token]) -> bool:
    """Whether a question speaks of a part of a text, as LIKE matches it."""
    return any(token.stem in _PATTERN for token in asked)


def place(entry: Entry, asked: Sequence[Token], look_up: LookUp) -> Place | None:
    """The longest run of an entry's words in the question (the longest common substring in
    words, weighed by letters), or the span that means it in other words."""
    span = look_up.dates.get(entry.id) or look_up.equivalents.get(" ".join(entry.key))
    total = covered = 0
    edited = False
    best = (0, 0, 0, False)  # letters, -start, end
    runs: dict[int, tuple[int, int]] = {}  # last position: letters, start
    for word in entry.key:
        total += len(word)
        at: Sequence[int] | None = look_up.positions.get(word)
        if at is None and word in look_up.corrected:
            at, edited = (look_up.corrected[word],), True
        following: dict[int, tuple[int, int]] = {}
        if at:
            covered += len(word)
            for position in at:
                letters, start = runs.get(position - 1, (0, position))
                following[position] = (letters + len(word), start)
                best = max(best, (letters + len(word), -start, position + 1, edited))
        runs = following
    letters, start, end, _ = best
    if letters == total:
        return Place(-start, end, 1.0, 1.0, edited)
    if span:
        return Place(*span, 1.0, 1.0, True)
    if letters:
        return Place(-start, end, covered / total, letters / total, edited)
    for position, token in enumerate(asked):  # a quoted beginning of a word
        if token.quoted and any(word.startswith(token.stem) for word in entry.key):
            share = len(token.stem) / total
            return Place(position, position + 1, share, share, True)
    return None


def features(entry: Entry, at: Place, around: Surroundings) -> tuple[float, ...]:
    """The features of one value, in the order of FEATURES."""
    span = around.asked[at.start : at.end]
    surface = around.text[span[0].start : span[-1].end]
    value = str(entry.value)
    alike = fold(surface) == fold(value)
    small = all(token.text.lower() in STOP_WORDS for token in span)
    column = around.column
    outside = [p for p in column.positions if not at.start <= p < at.end]
    flag = around.is_flag and at.run == 0
    yes = value.lower() in _YES
    letters = sum(len(token.stem) for token in span)
    return (
        float(at.run == 1.0),
        at.run,
        at.covered,
        float(surface == value),
        float(alike),
        float(at.edited),
        float(all(token.quoted for token in span)),
        float(all(token.capital for token in span) and at.start > 0),
        float(small),
        float(all(token.text.isdigit() for token in span)),
        max(around.similarity[at.start : at.end]),
        math.log(letters),
        float(len(span) > 1),
        column.share if outside else 0.0,
        around.table.share,
        _nearness(outside, at),
        _nearness(around.table.positions, at),
        float(around.is_key),
        math.log(around.spread),
        float(len(value) == 1) + float(len(value) == 1 and letters == 1),
        float(around.inside),
        float(span[0].text.islower() and value[:1].isupper()),
        float(flag),
        float(flag and yes != around.denied),
        float(not outside),
        float(small and surface != value),
        float(at.run < 1.0 and around.pattern),
        float(not isinstance(entry.value, str)),
    )


def _nearness(positions: Sequence[int], at: Place) -> float:
    distances = [at.start - p if p < at.start else p - at.end + 1 for p in positions]
    return 1 / max(1, min(distances, default=FAR))
