"""Statistics of scores: intervals, paired tests between two systems, corrections for many looks.

Two questions are asked of a difference, and they have different answers. *Other questions on these
databases*: each question is drawn by itself (Wilson's, Newcombe's, the bootstrap over questions).
*Other databases*: the questions of one database share its schema and are right or wrong together,
so whole databases are drawn (the bootstrap with `clusters`), which is nearly always wider.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # 97.5 % point of the standard normal distribution
RESAMPLES = 10_000  # the quantiles of the bootstrap are then known to about a tenth of their width
# One sum over counts of so few distinct values, or of one in so many of them, is quicker than one
# over the drawn values.
_FEW_DISTINCT, _SHARE_DISTINCT = 64, 16
_CELLS = 1 << 21  # drawn indices held at a time: 16 MiB


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of right answers with its 95 % Wilson score interval.

    Attributes:
        right: number of right answers.
        total: number of judged answers.
        low, high: bounds of the interval (Wilson 1927), as shares.
    """

    right: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else float("nan")


def accuracy(right: Sequence[bool]) -> Accuracy:
    """Accuracy of one system from its verdicts; an empty sequence has the interval [0, 1]."""
    low, high = _wilson(sum(right), len(right))
    return Accuracy(sum(right), len(right), low, high)


def _wilson(right: int, n: int) -> tuple[float, float]:
    if not n:
        return 0.0, 1.0
    share = right / n
    # Wilson 1927: the shares p from which the observed one is z standard errors away.
    centre = share + Z_95**2 / (2 * n)
    spread = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    scale = 1 + Z_95**2 / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, low), min(1.0, high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the same questions.

    Attributes:
        gained: questions only the first system answers.
        lost: questions only the second system answers.
        p: two-sided p-value of McNemar's exact test (binomial on the discordant pairs).
    """

    gained: int
    lost: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """McNemar's exact test between two systems.

    Args:
        first, second: verdicts on the same questions in the same order.

    Raises:
        ValueError: lengths differ.
    """
    gained = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    return Comparison(gained, lost, _both_tails(min(gained, lost), gained + lost))


def _both_tails(least: int, n: int) -> float:
    """Twice the chance of at most so many heads in n throws of a fair coin; 1 at the most."""
    if 2 * least >= n:
        return 1.0
    # From the largest term down, as multiples of it: whole numbers take half a minute of a million.
    largest = math.lgamma(n + 1) - math.lgamma(least + 1) - math.lgamma(n - least + 1)
    term = terms = 1.0
    for k in range(least, 0, -1):
        term *= k / (n - k + 1)
        terms += term
        if term < 1e-17 * terms:
            break
    return min(1.0, 2 * terms * math.exp(largest - n * math.log(2)))


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        value: the mean; NaN of nothing.
        low, high: bounds of the interval; NaN where there is too little to draw from.
        p: two-sided p-value of "the true mean is 0"; NaN where it was not asked for.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")


def paired_interval(first: Sequence[bool], second: Sequence[bool]) -> Interval:
    """Difference of two systems' accuracies on the same questions, with Newcombe's interval.

    Newcombe 1998 (Statistics in Medicine 17, 2635), method 10: Wilson's intervals of both systems
    put together with the correlation of their verdicts. It keeps its 95 % on a slice of twenty
    questions, and on one without any disagreement, where a bootstrap would give a width of zero.
    Its `p` is McNemar's.

    Raises:
        ValueError: lengths differ.
    """
    test = mcnemar(first, second)
    n = len(first)
    if not n:
        return Interval(float("nan"), float("nan"), float("nan"), 1.0)
    p1, p2 = sum(first) / n, sum(second) / n
    l1, u1 = _wilson(sum(first), n)
    l2, u2 = _wilson(sum(second), n)
    both = sum(a and b for a, b in zip(first, second, strict=True))
    neither = n - both - test.gained - test.lost
    margins = sum(first) * (n - sum(first)) * sum(second) * (n - sum(second))
    product: float = both * neither - test.gained * test.lost
    if product > 0:  # continuity correction of a positive correlation
        product = max(0.0, product - n / 2)
    phi = product / math.sqrt(margins) if margins else 0.0
    down = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    up = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    value = (test.gained - test.lost) / n
    return Interval(value, value - math.sqrt(max(0, down)), value + math.sqrt(max(0, up)), test.p)


def bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean with its BCa bootstrap interval, and the p-value of a true mean of 0.

    For the difference of two systems, give the differences question by question: the test is then
    paired. The interval is Efron's BCa (Efron & Tibshirani 1993, chapter 14), which follows the
    skew of VES. The p-value is the share of resamples that lie as far from the observed mean as
    the observed mean lies from 0 (ibid., section 16.4), and at least 1 / (resamples + 1).

    Args:
        values: one per question.
        clusters: the cluster of each value, such as its database: whole clusters are drawn, and
            the mean is over all values drawn. None draws single values.
        resamples: number of resamples.
        seed: of the draws; equal arguments give equal results under one version of NumPy.

    Returns:
        NaN as bounds and p-value of fewer than two units to draw from.

    Raises:
        ValueError: a length differs, or a value is not finite.
    """
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("bootstrap of a value that is not finite")
    sums, weights = _units(array, clusters)
    value = float(sums.sum() / weights.sum())
    if len(sums) < 2:
        return Interval(value, float("nan"), float("nan"))
    means = _resampled(sums, weights, resamples, np.random.default_rng(seed))
    low, high = _bca(means, value, sums, weights)
    # A mean of equal values comes out a rounding away from them.
    slack = 1e-12 * max(1.0, float(np.abs(array).max()))
    far = int((np.abs(means - value) >= abs(value) - slack).sum())
    return Interval(value, low, high, (far + 1) / (resamples + 1))


def _units(
    array: NDArray[np.float64], clusters: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of values of each unit that is drawn as a whole."""
    if clusters is None:
        return array, np.ones_like(array)
    if len(clusters) != len(array):
        raise ValueError(f"{len(clusters)} clusters for {len(array)} values")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    weights = np.bincount(index).astype(np.float64)
    return np.bincount(index, weights=array).astype(np.float64), weights


def _resampled(
    sums: NDArray[np.float64],
    weights: NDArray[np.float64],
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Means of resamples, each of as many units as there are."""
    n = len(sums)
    distinct, counts = np.unique(np.stack([sums, weights]), axis=1, return_counts=True)
    few = len(counts) <= max(_FEW_DISTINCT, n // _SHARE_DISTINCT)
    means = np.empty(resamples)
    at_once = max(1, _CELLS // (len(counts) if few else n))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        if few:
            often = generator.multinomial(n, counts / n, size=size)
            means[start : start + size] = (often @ distinct[0]) / (often @ distinct[1])
        else:
            drawn = generator.integers(0, n, size=(size, n), dtype=np.int32)
            means[start : start + size] = sums[drawn].sum(1) / weights[drawn].sum(1)
    return means


def _bca(
    means: NDArray[np.float64],
    value: float,
    sums: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> tuple[float, float]:
    """Bounds from the resamples, their percentiles corrected for bias and skew."""
    normal = NormalDist()
    below = ((means < value).mean() + (means <= value).mean()) / 2
    below = min(max(float(below), 0.5 / len(means)), 1 - 0.5 / len(means))
    bias = normal.inv_cdf(below)
    # Skew by the jackknife: the mean without each unit in turn.
    left = (sums.sum() - sums) / (weights.sum() - weights)
    away = left.mean() - left
    spread = float((away**2).sum()) ** 1.5
    skew = float((away**3).sum()) / (6 * spread) if spread > 1e-300 else 0.0
    bounds = []
    for z in (-Z_95, Z_95):
        shifted = bias + z
        bounds.append(normal.cdf(bias + shifted / (1 - skew * shifted)))
    low, high = np.quantile(means, bounds)
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given; NaN, which is no look, stays.

    The chance that any of the looks calls a difference real where there is none stays at the
    level that each adjusted value is compared with.
    """
    looks = [i for i, p in enumerate(p_values) if p == p]
    order = sorted(looks, key=lambda i: p_values[i])
    adjusted = [float("nan")] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(looks) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
