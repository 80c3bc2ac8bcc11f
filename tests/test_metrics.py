"""Intervals and paired tests against numbers worked by hand."""

from math import comb, isnan, sqrt

import pytest

from spftcore.metrics import accuracy, mcnemar


def test_wilson_interval_of_8_in_10():
    # Wilson: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n) with p = 0.8, n = 10,
    # z = 1.959964: centre (0.8 + 0.192073) / 1.384146 = 0.716740,
    # half width 1.959964 · √(0.016 + 0.009604) / 1.384146 = 0.226577.
    result = accuracy([True] * 8 + [False] * 2)
    assert (result.right, result.total, result.share) == (8, 10, 0.8)
    assert result.low == pytest.approx(0.490163, abs=2e-6)
    assert result.high == pytest.approx(0.943317, abs=2e-6)


@pytest.mark.parametrize(("right", "total"), [(0, 7), (7, 7), (1, 400), (213, 400)])
def test_wilson_interval_follows_its_formula(right, total):
    z, p = 1.959963984540054, right / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * sqrt(p * (1 - p) / total + z * z / (4 * total**2)) / (1 + z * z / total)
    result = accuracy([True] * right + [False] * (total - right))
    assert result.low == pytest.approx(max(0.0, centre - half), abs=1e-9)
    assert result.high == pytest.approx(min(1.0, centre + half), abs=1e-9)


def test_no_answers_say_nothing():
    result = accuracy([])
    assert (result.right, result.total, result.low, result.high) == (0, 0, 0.0, 1.0)
    assert isnan(result.share)


def test_mcnemar_counts_only_questions_on_which_the_systems_differ():
    # 9 gained, 1 lost: p = 2 · (C(10,0) + C(10,1)) / 2^10 = 22 / 1024.
    first = [True] * 9 + [False] + [True] * 50 + [False] * 40
    second = [False] * 9 + [True] + [True] * 50 + [False] * 40
    result = mcnemar(first, second)
    assert (result.gained, result.lost) == (9, 1)
    assert result.p == pytest.approx(22 / 1024, rel=1e-12)


def test_mcnemar_is_symmetric_and_two_sided():
    first = [True] * 30 + [False] * 14
    second = [not right for right in first]
    tail = sum(comb(44, k) for k in range(15)) / 2**44
    assert mcnemar(first, second).p == pytest.approx(2 * tail, rel=1e-9)
    assert mcnemar(second, first).p == pytest.approx(2 * tail, rel=1e-9)


@pytest.mark.parametrize("verdicts", [[], [True, False, True]])
def test_systems_that_never_differ_have_p_1(verdicts):
    assert mcnemar(verdicts, verdicts).p == 1.0


def test_an_even_split_is_no_evidence():
    assert mcnemar([True, False], [False, True]).p == 1.0


def test_verdicts_on_different_questions_are_refused():
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])
