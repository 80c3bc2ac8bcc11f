"""How fast right answers are against their golds: VES and R-VES as BIRD defines them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, pstdev

from spftcore.verify import Executor, Limits

REPEATS = 100  # BIRD's


def ves(ratio: float) -> float:
    """The valid efficiency score of a right answer: √(time of the gold / its time)."""
    return sqrt(ratio)


def r_ves(ratio: float) -> float:
    """The reward-based score of a right answer: √ of a reward for the ratio gold's time / its."""
    return sqrt(reward(ratio))


def reward(ratio: float) -> float:
    """BIRD's steps: twice as fast 1.25, as fast 1, half 0.75, a quarter 0.5, slower 0.25."""
    for bound, value in ((2.0, 1.25), (1.0, 1.0), (0.5, 0.75), (0.25, 0.5)):
        if ratio >= bound:
            return value
    return 0.25


def mean_without_outliers(ratios: Sequence[float]) -> float:
    """Mean of those less than three (population) standard deviations from the mean of all."""
    mean, spread = fmean(ratios), pstdev(ratios)
    kept = [ratio for ratio in ratios if abs(ratio - mean) < 3 * spread]
    return fmean(kept) if kept else mean  # none is nearer than no spread at all


def timed_ratios(
    pairs: Sequence[tuple[Path, str, str]], limits: Limits, repeats: int
) -> list[float]:
    """Time of the gold over time of the answer, for each (database file, gold, answer).

    One thread runs answer and gold in turns, `repeats` times, with nothing else under way in this
    process. Seconds are from compiling to the last row; opening the file is not in them.
    """
    ratios = []
    with Executor(threads=1, limits=limits, gold_cache_bytes=0) as executor:
        for path, gold, answer in pairs:
            executor.execute([(path, gold), (path, answer)])  # reads the file once
            of_pair = []
            for _ in range(repeats):
                answered = executor.execute([(path, answer)])[0].seconds
                expected = executor.execute([(path, gold)])[0].seconds
                of_pair.append(expected / max(answered, 1e-9))
            ratios.append(mean_without_outliers(of_pair))
    return ratios
