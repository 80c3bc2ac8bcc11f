"""How fast right answers are against their golds: VES and R-VES as BIRD defines them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, pstdev

from spftcore.verify import Executor, Limits

REPEATS = 100  # BIRD's


def ves(ratio: float) -> float:
    """The valid efficiency score of one answer: √(time of its gold / its time); 0 if wrong.

    Args:
        ratio: time of the gold over time of the answer; 0 for a wrong answer.
    """
    return sqrt(ratio)


def r_ves(ratio: float) -> float:
    """The reward-based score of one answer: √ of the reward for its ratio."""
    return sqrt(reward(ratio))


def reward(ratio: float) -> float:
    """BIRD's steps: twice as fast 1.25, as fast 1, half 0.75, a quarter 0.5, slower 0.25; a wrong
    answer, whose ratio is 0, has none."""
    for bound, value in ((2.0, 1.25), (1.0, 1.0), (0.5, 0.75), (0.25, 0.5)):
        if ratio >= bound:
            return value
    return 0.25 if ratio > 0 else 0.0


def mean_without_outliers(ratios: Sequence[float]) -> float:
    """Mean of those less than three (population) standard deviations from the mean of all."""
    mean, spread = fmean(ratios), pstdev(ratios)
    kept = [ratio for ratio in ratios if abs(ratio - mean) < 3 * spread]
    return fmean(kept) if kept else mean  # none is less than 0 away where all are equal


def timing_executor(limits: Limits) -> Executor:
    """One thread, so that nothing of this process runs beside what is timed."""
    return Executor(threads=1, limits=limits, gold_cache_bytes=0)


def timed_ratio(
    executor: Executor, path: Path, gold: str, answer: str, repeats: int
) -> float | None:
    """Time of the gold over time of the answer, as the mean over repeats without outliers.

    Answer and gold run in turns. Seconds are the executor's, from compiling to the last row;
    opening the file is not in them.

    Returns:
        The ratio; None where a run ended undecided.
    """
    executor.execute([(path, gold), (path, answer)])  # reads the file once
    ratios = []
    for _ in range(repeats):
        answered = executor.execute([(path, answer)])[0]
        expected = executor.execute([(path, gold)])[0]
        if not (answered.ran and expected.ran):
            return None
        ratios.append(expected.seconds / max(answered.seconds, 1e-9))  # a clock's least step
    return mean_without_outliers(ratios)
