"""What many scored questions come to: metrics in all and by group, exclusions, ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from statistics import fmean
from typing import Any

from spftcore.metrics.features import CLAUSES
from spftcore.metrics.groups import GROUPS
from spftcore.metrics.hardness import CLASSES
from spftcore.metrics.records import Scored
from spftcore.metrics.statistics import accuracy, bootstrap

# Scores of 0 and 1 only, which have a Wilson interval.
BINARY = frozenset(("spider", "bag", "bird", "ts", "vote"))

RAN = frozenset(("ok", "empty"))

DEFAULT_GROUPS = ("hardness", "difficulty")


@dataclass(frozen=True, slots=True)
class Score:
    """One metric over some questions.

    Attributes:
        total: questions it was judged on.
        mean: of their scores; NaN without any.
        right: of a metric of 0 and 1: how many have 1; else None.
        low, high: 95 % interval: Wilson's of a metric of 0 and 1; of another one, over all
            questions, the bootstrap's (`statistics.bootstrap`); None where there is none.
    """

    total: int
    mean: float
    right: int | None = None
    low: float | None = None
    high: float | None = None


def score_of(metric: str, scored: Iterable[Scored]) -> Score:
    """A metric over the questions it was judged on."""
    values = [one.scores[metric] for one in scored if metric in one.scores]
    if metric in BINARY:
        estimate = accuracy([value == 1 for value in values])
        return Score(len(values), estimate.share, estimate.right, estimate.low, estimate.high)
    return Score(len(values), fmean(values) if values else float("nan"))


def _overall(metric: str, counted: Sequence[Scored]) -> Score:
    """With an interval of means too, which takes a tenth of a second."""
    score = score_of(metric, counted)
    if metric in BINARY or score.total < 2:
        return score
    interval = bootstrap([one.scores[metric] for one in counted if metric in one.scores])
    if isnan(interval.low):
        return score
    return replace(score, low=interval.low, high=interval.high)


@dataclass(frozen=True, slots=True)
class Summary:
    """An evaluation's figures.

    Attributes:
        questions: all of them.
        counted: those that count in a score.
        excluded: the others by cause.
        metrics: by name.
        groups: by what they are grouped by (hardness, difficulty, database, clause, joins), then
            by group: its metrics.
        statuses: counted answers by how their execution ended.
        no_answer: counted questions without an answer.
        copies: counted answers that are the gold, letter for letter.
        unjudged: by metric: counted questions it could not be judged on.
        near_misses: right on the database and wrong on its family.
        ties: by metric of right and wrong, what hangs on unstable golds.
        unstable: counted questions with an unstable gold, by cause.
    """

    questions: int
    counted: int
    excluded: Mapping[str, int]
    metrics: Mapping[str, Score]
    groups: Mapping[str, Mapping[str, Mapping[str, Score]]]
    statuses: Mapping[str, int]
    no_answer: int
    copies: int
    unjudged: Mapping[str, int]
    near_misses: int
    ties: Mapping[str, Ties]
    unstable: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ties:
    """How much of a score hangs on unstable golds.

    Attributes:
        right, wrong: answers to questions with an unstable gold.
        without: the score on the other questions.
        share: of all right answers, those to unstable golds.
    """

    right: int
    wrong: int
    without: Score
    share: float


def summarise(scored: Sequence[Scored], metrics: Sequence[str] = ()) -> Summary:
    """The figures of an evaluation, from its records alone.

    Args:
        metrics: those asked for: they are listed also where no question could be judged by them.
    """
    counted = [one for one in scored if not one.excluded]
    found = (name for one in counted for name in one.scores)
    names = list(dict.fromkeys((*metrics, *found)))
    groups: dict[str, dict[str, dict[str, Score]]] = {}
    for name, key in GROUPS.items():
        members: dict[str, list[Scored]] = {}
        for one in counted:
            for group in key(one):
                members.setdefault(group, []).append(one)
        if members:
            groups[name] = {
                group: {metric: score_of(metric, members[group]) for metric in names}
                for group in sorted(members, key=_order)
            }
    return Summary(
        questions=len(scored),
        counted=len(counted),
        excluded=dict(Counter(one.excluded for one in scored if one.excluded)),
        metrics={name: _overall(name, counted) for name in names},
        groups=groups,
        statuses=dict(Counter(one.status for one in counted)),
        no_answer=sum(not one.sql.strip() for one in counted),
        copies=sum(one.sql.strip() == one.gold.strip() for one in counted),
        unjudged={
            name: missing
            for name in names
            if (missing := sum(name not in one.scores for one in counted))
        },
        near_misses=sum(one.near_miss for one in counted),
        ties={name: _ties(name, counted) for name in names if name in BINARY},
        unstable=dict(Counter(one.unstable for one in counted if one.unstable)),
    )


def _ties(metric: str, counted: Sequence[Scored]) -> Ties:
    unstable = score_of(metric, [one for one in counted if one.unstable])
    without = score_of(metric, [one for one in counted if not one.unstable])
    right = unstable.right or 0
    every = right + (without.right or 0)
    return Ties(right, unstable.total - right, without, right / every if every else 0.0)


_NAMES = (*CLASSES, "simple", "moderate", "challenging", *CLAUSES)
_ORDER = {name: place for place, name in enumerate(_NAMES)}


def _order(group: str) -> tuple[int, str]:
    return _ORDER.get(group, len(_ORDER)), group


def as_json(value: Any) -> Any:
    """Figures as JSON has them: NaN as null."""
    if isinstance(value, Mapping):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, float):
        return None if value != value else value
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
