"""Two systems on the questions scored for both: how far apart they are, where, and by chance?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spftcore.errors import SpftError
from spftcore.metrics.groups import GROUPS, groups_of
from spftcore.metrics.records import Scored
from spftcore.metrics.statistics import Interval, accuracy, bootstrap, holm, paired_interval

# 2 / 2^n, the smallest p that a draw of n databases can show, is below 5 % from here on.
LEAST_DATABASES = 6
_SHOWN_IDS = 3


@dataclass(frozen=True, slots=True)
class Slice:
    """The difference on some of the questions.

    Attributes:
        kind, value: such as `hardness` and `extra`.
        questions: how many.
        first, second: mean scores.
        difference: of the first above the second, with its 95 % interval and p-value.
        adjusted_p: p-value after Holm's correction over all slices looked at.
    """

    kind: str
    value: str
    questions: int
    first: float
    second: float
    difference: Interval
    adjusted_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Paired:
    """What two systems' scores of one metric say about them.

    Attributes:
        metric: its name.
        questions: compared; `left_out` counts the others by cause.
        first, second: mean score of each, with its 95 % interval over questions.
        difference: of the first above the second, over questions.
        over_databases: the same with databases drawn as a whole; None below `LEAST_DATABASES`.
        databases: how many the questions are about.
        better, worse: ids of the questions where the first, or the second, scores higher.
        unstable: compared questions whose gold hangs on more than the data.
        stable: the difference without those; None where there are none.
        mistakes: how often each class of mistake is the first one of an answer of the first and of
            the second system; the most frequent first. Near misses are left out.
        slices: in the order hardness, difficulty, joins, clause, database.
    """

    metric: str
    questions: int
    left_out: Mapping[str, int]
    first: Interval
    second: Interval
    difference: Interval
    over_databases: Interval | None
    databases: int
    better: tuple[str, ...]
    worse: tuple[str, ...]
    unstable: int
    stable: Interval | None
    mistakes: Mapping[str, tuple[int, int]]
    slices: tuple[Slice, ...]


def compare_scores(first: Sequence[Scored], second: Sequence[Scored], metric: str) -> Paired:
    """Compares two systems on the questions that count for both.

    Raises:
        SpftError: the same id stands for another question or gold, or no question counts for both.
    """
    ours, theirs, left_out = _common(first, second, metric)
    if not ours:
        causes = "; ".join(f"{count} {cause}" for cause, count in left_out.items())
        raise SpftError(f"No question has a score of '{metric}' in both: {causes}.")
    a = [one.scores[metric] for one in ours]
    b = [one.scores[metric] for one in theirs]
    databases = [one.database for one in ours]
    over = None
    if len(set(databases)) >= LEAST_DATABASES:
        over = bootstrap(_minus(a, b), databases)
    steady = [i for i, one in enumerate(ours) if not (one.unstable or theirs[i].unstable)]
    stable = None
    if len(steady) < len(ours):
        stable = difference([a[i] for i in steady], [b[i] for i in steady])
    return Paired(
        metric=metric,
        questions=len(ours),
        left_out=left_out,
        first=mean(a),
        second=mean(b),
        difference=difference(a, b),
        over_databases=over,
        databases=len(set(databases)),
        better=tuple(o.id for o, x, y in zip(ours, a, b, strict=True) if x > y),
        worse=tuple(o.id for o, x, y in zip(ours, a, b, strict=True) if x < y),
        unstable=len(ours) - len(steady),
        stable=stable,
        mistakes=_mistakes(ours, theirs),
        slices=_slices(ours, a, b),
    )


def _mistakes(ours: Sequence[Scored], theirs: Sequence[Scored]) -> dict[str, tuple[int, int]]:
    first, second = (
        Counter(one.mistakes[0] for one in some if one.mistakes and not one.near_miss)
        for some in (ours, theirs)
    )
    names = sorted(first.keys() | second.keys(), key=lambda n: (-first[n] - second[n], n))
    return {name: (first[name], second[name]) for name in names}


def mean(values: Sequence[float]) -> Interval:
    """Mean score with its 95 % interval: Wilson's of a share, else the bootstrap's."""
    if _binary(values):
        share = accuracy([value == 1 for value in values])
        return Interval(share.share, share.low, share.high)
    return replace(bootstrap(values), p=float("nan"))


def difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Mean of first minus second: Newcombe's interval and McNemar's test where every score is 0
    or 1, the paired bootstrap's otherwise."""
    if _binary(first) and _binary(second):
        return paired_interval([x == 1 for x in first], [x == 1 for x in second])
    return bootstrap(_minus(first, second))


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def _minus(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(first, second, strict=True)]


def _common(
    first: Sequence[Scored], second: Sequence[Scored], metric: str
) -> tuple[list[Scored], list[Scored], dict[str, int]]:
    """The questions that count for both, in the order of the first, and the others counted."""
    by_id = {one.id: one for one in second}
    known = {one.id for one in first}
    left_out: Counter[str] = Counter()
    ours, theirs = [], []
    for a in first:
        b = by_id.get(a.id)
        if b is None:
            left_out["only in the first"] += 1
            continue
        _refuse_other_question(a, b)
        cause = a.excluded or b.excluded
        if cause:
            left_out[f"excluded ({cause})"] += 1
        elif metric not in a.scores or metric not in b.scores:
            missing = [a, b][metric in a.scores]
            which = "first" if missing is a else "second"
            both = metric not in a.scores and metric not in b.scores
            left_out[f"not judged in {'both' if both else f'the {which}'}"] += 1
        else:
            ours.append(a)
            theirs.append(b)
    only = sum(one.id not in known for one in second)
    if only:
        left_out["only in the second"] = only
    if first and second and not known & by_id.keys():
        names = [", ".join(one.id for one in some[:_SHOWN_IDS]) for some in (first, second)]
        raise SpftError(
            f"The two have no question in common (ids {names[0]}, … and {names[1]}, …). Compare "
            "answers to the same benchmark."
        )
    return ours, theirs, dict(left_out)


def _refuse_other_question(a: Scored, b: Scored) -> None:
    for what in ("database", "question", "gold"):
        one, other = (" ".join(getattr(x, what).split()) for x in (a, b))
        if one != other:
            raise SpftError(
                f"Question {a.id} has another {what} in the second ({_short(other)}) than in the "
                f"first ({_short(one)}). These are answers to different benchmarks, or to "
                "different editions of one; compare answers to the same."
            )


def _short(text: str) -> str:
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"


def _slices(ours: Sequence[Scored], a: Sequence[float], b: Sequence[float]) -> tuple[Slice, ...]:
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, one in enumerate(ours):
        for key in groups_of(one):
            members[key].append(i)
    slices = []
    for (kind, value), chosen in sorted(members.items(), key=lambda item: slice_order(item[0])):
        x, y = [a[i] for i in chosen], [b[i] for i in chosen]
        slices.append(
            Slice(
                kind,
                value,
                len(chosen),
                sum(x) / len(x),
                sum(y) / len(y),
                difference(x, y),
            )
        )
    # A slice without two values has no p-value, and is not a look.
    tested = [one for one in slices if one.difference.p == one.difference.p]
    adjusted = dict(zip(map(id, tested), holm([s.difference.p for s in tested]), strict=True))
    return tuple(replace(one, adjusted_p=adjusted.get(id(one), 1.0)) for one in slices)


KINDS = tuple(GROUPS)
_ORDERS = (
    ("easy", "medium", "hard", "extra"),
    ("simple", "moderate", "challenging"),
    ("0", "1", "2", "3 or more"),
)


def slice_order(key: tuple[str, str]) -> tuple[int, int, str]:
    """Sort key of a slice's (kind, value): kinds in the order of `KINDS`, values as they rise."""
    kind, value = key
    number = KINDS.index(kind)
    order = _ORDERS[number] if number < len(_ORDERS) else ()
    return number, order.index(value) if value in order else len(order), value
