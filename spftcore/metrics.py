"""Statistics of execution accuracy: intervals and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest


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
    interval = binomtest(sum(right), len(right)).proportion_ci(0.95, method="wilson")
    return Accuracy(sum(right), len(right), float(interval.low), float(interval.high))


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
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Comparison(gained, lost, p)
