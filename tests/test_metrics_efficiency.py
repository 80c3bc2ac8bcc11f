"""VES and R-VES: BIRD's formulas by hand and against NumPy, and what timing returns."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spftcore.metrics.efficiency import (
    mean_without_outliers,
    r_ves,
    reward,
    timed_ratio,
    timing_executor,
    ves,
)
from spftcore.verify import Limits


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, 0.0), (0.01, 0.25), (0.2499, 0.25), (0.25, 0.5), (0.4999, 0.5), (0.5, 0.75),
        (0.9999, 0.75), (1.0, 1.0), (1.9999, 1.0), (2.0, 1.25), (100.0, 1.25),
    ],
)  # fmt: skip
def test_rewards_at_the_edges_of_birds_steps(ratio: float, expected: float) -> None:
    assert reward(ratio) == expected
    assert r_ves(ratio) == pytest.approx(sqrt(expected))


def test_scores_are_square_roots_of_ratios() -> None:
    assert ves(4.0) == 2
    assert ves(0.25) == 0.5
    assert ves(0.0) == r_ves(0.0) == 0


def test_one_value_far_out_is_dropped() -> None:
    # 99 ones and one 101: mean 2, standard deviation √(99·1 + 99²)/10 ≈ 9.95, so 101 is out.
    assert mean_without_outliers([1.0] * 99 + [101.0]) == 1
    # Among four values nothing can be three deviations from the mean.
    assert mean_without_outliers([1.0, 1.0, 1.0, 9.0]) == 3


def test_equal_values_are_not_dropped_all() -> None:
    assert mean_without_outliers([0.5] * 7) == 0.5
    assert mean_without_outliers([3.0]) == 3


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40))
def test_outliers_are_those_of_numpy(ratios: list[float]) -> None:
    values = np.array(ratios)
    away = np.abs(values - values.mean())
    limit = 3 * values.std()
    if np.any(np.isclose(away, limit, rtol=1e-9, atol=1e-12)):
        return  # on the edge, up to rounding
    assert mean_without_outliers(ratios) == pytest.approx(values[away < limit].mean())


def test_timing_gives_a_ratio_of_runs_and_none_where_a_run_is_undecided(travel: Path) -> None:
    path = travel / "travel.sqlite"
    with timing_executor(Limits()) as executor:
        ratio = timed_ratio(executor, path, "select 1", "select count(*) from city", 3)
        assert ratio is not None
        assert ratio > 0
        assert timed_ratio(executor, path, "select 1", "select nope", 3) is None
        assert executor.threads == 1
