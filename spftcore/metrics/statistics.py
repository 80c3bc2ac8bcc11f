"""Statistics of execution accuracy: intervals and paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054  # 97.5 % point of the standard normal distribution


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
    if not right:
        return Accuracy(0, 0, 0.0, 1.0)
    n = len(right)
    share = sum(right) / n
    # Wilson 1927: the shares p from which the observed one is z standard errors away.
    centre = share + Z_95**2 / (2 * n)
    spread = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    scale = 1 + Z_95**2 / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return Accuracy(sum(right), n, max(0.0, low), min(1.0, high))


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
    from scipy.stats import binomtest  # takes a second to import

    gained = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Comparison(gained, lost, p)
