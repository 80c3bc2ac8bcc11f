"""Intervals and paired tests against numbers worked by hand."""

import random
from math import comb, isnan, sqrt

import numpy as np
import pytest
import scipy.stats

from spftcore.metrics import accuracy, bootstrap, holm, mcnemar, paired_interval


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


@pytest.mark.parametrize(
    ("gained", "lost"),
    [(0, 1), (1, 1), (0, 60), (3, 40), (520, 600), (9_000, 9_300), (240_000, 241_500)],
)
def test_mcnemar_is_the_binomial_test_at_any_size(gained, lost):
    first = [True] * gained + [False] * lost
    second = [not right for right in first]
    expected = scipy.stats.binomtest(gained, gained + lost).pvalue
    assert mcnemar(first, second).p == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("verdicts", [[], [True, False, True]])
def test_systems_that_never_differ_have_p_1(verdicts):
    assert mcnemar(verdicts, verdicts).p == 1.0


def test_an_even_split_is_no_evidence():
    assert mcnemar([True, False], [False, True]).p == 1.0


def test_verdicts_on_different_questions_are_refused():
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])


def test_mcnemar_is_exact_for_thousands_of_disagreements():
    first = [True] * 3100 + [False] * 2900
    result = mcnemar(first, [not right for right in first])
    assert result.p == pytest.approx(scipy.stats.binomtest(3100, 6000).pvalue, rel=1e-9)


def test_paired_interval_of_newcombes_example():
    # Newcombe 1998, table III: 36, 12, 2, 0; method 10 gives 0.0569 to 0.3404.
    first = [True] * 36 + [True] * 12 + [False] * 2
    second = [True] * 36 + [False] * 12 + [True] * 2
    result = paired_interval(first, second)
    assert result.value == pytest.approx(0.2)
    assert (round(result.low, 4), round(result.high, 4)) == (0.0569, 0.3404)
    assert result.p == mcnemar(first, second).p


def test_paired_interval_turns_round_with_the_systems():
    draw = random.Random(4)
    first = [draw.random() < 0.6 for _ in range(57)]
    second = [draw.random() < 0.4 for _ in range(57)]
    ahead, behind = paired_interval(first, second), paired_interval(second, first)
    assert (ahead.value, ahead.low, ahead.high) == pytest.approx(
        (-behind.value, -behind.high, -behind.low)
    )


def test_paired_interval_has_a_width_where_the_systems_never_differ():
    # With no disagreement in 20 questions a true difference of some points remains possible.
    result = paired_interval([True] * 12 + [False] * 8, [True] * 12 + [False] * 8)
    assert result.value == 0
    assert -0.3 < result.low < -0.02 < 0.02 < result.high < 0.3


def test_paired_interval_covers_the_true_difference_on_small_slices():
    draw = random.Random(11)
    covered = 0
    for _ in range(1000):
        first = [draw.random() < 0.7 for _ in range(20)]
        # The second agrees with the first in four of five questions, and is right half the time
        # in the others: its accuracy is 0.8 · 0.7 + 0.2 · 0.5 = 0.66.
        second = [f if draw.random() < 0.8 else draw.random() < 0.5 for f in first]
        result = paired_interval(first, second)
        covered += result.low <= 0.7 - 0.66 <= result.high
    assert covered >= 930  # 950 expected; four standard errors are 28


@pytest.mark.parametrize("n", [12, 900])
def test_bootstrap_agrees_with_scipy_on_skewed_values(n):
    values = np.random.default_rng(n).lognormal(size=n)
    ours = bootstrap(values)
    theirs = scipy.stats.bootstrap((values,), np.mean, batch=500, rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_drawing_counts_and_drawing_values_are_the_same_bootstrap():
    values = [1.0] * 40 + [0.0] * 25 + [-1.0] * 15
    nudged = [v + i * 1e-9 for i, v in enumerate(values)]  # all distinct: the other way to draw
    few, many = bootstrap(values), bootstrap(nudged)
    width = few.high - few.low
    assert few.low == pytest.approx(many.low, abs=0.06 * width)
    assert few.high == pytest.approx(many.high, abs=0.06 * width)
    assert few.p == pytest.approx(many.p, abs=0.005)


def _loop(values, clusters, resamples, seed):
    """A cluster bootstrap as plain loops: sorted means of resamples."""
    draw = random.Random(seed)
    groups = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    means = []
    for _ in range(resamples):
        drawn = [v for _ in groups for v in draw.choice(list(groups.values()))]
        means.append(sum(drawn) / len(drawn))
    return sorted(means)


def test_clusters_are_drawn_as_a_whole():
    draw = random.Random(5)
    clusters = [f"db{i % 12}" for i in range(240)]
    level = {f"db{i}": draw.random() - 0.4 for i in range(12)}
    values = [1.0 if draw.random() < level[c] else 0.0 for c in clusters]
    result = bootstrap(values, clusters)
    means = _loop(values, clusters, 4000, 1)
    mean = sum(values) / len(values)
    deviation = sqrt(sum((m - mean) ** 2 for m in means) / len(means))
    # BCa moves both bounds of the percentile interval the same way; its width stays close.
    assert result.high - result.low == pytest.approx(means[3900] - means[100], rel=0.15)
    assert (result.high - result.low) / (2 * 1.96) == pytest.approx(deviation, rel=0.1)
    far = sum(abs(m - mean) >= mean for m in means) / len(means)
    assert result.p == pytest.approx(far, abs=0.01)
    alone = bootstrap(values)
    assert result.high - result.low > 1.2 * (alone.high - alone.low)


def test_a_cluster_of_equal_values_counts_once():
    # Ten databases whose questions all fall together: as good as ten questions.
    verdicts = [1, 0, 1, 1, 0, 1, 0, 1, 1, 1]
    values = [float(v) for v in verdicts for _ in range(50)]
    clusters = [i for i in range(10) for _ in range(50)]
    assert bootstrap(values, clusters).low == pytest.approx(bootstrap(verdicts).low)


def test_bootstrap_repeats_itself_and_follows_its_seed():
    values = list(np.random.default_rng(0).normal(size=200))
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3).low != bootstrap(values, seed=4).low


def test_equal_values_have_no_width():
    result = bootstrap([0.1] * 30)
    assert (result.low, result.high) == pytest.approx((0.1, 0.1))
    assert result.p == pytest.approx(1 / 10_001)
    assert bootstrap([0.0] * 30).p == 1.0


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_few_values_have_no_interval(values):
    result = bootstrap(values)
    assert all(isnan(number) for number in (result.low, result.high, result.p))


def test_one_database_says_nothing_of_others():
    assert isnan(bootstrap([0.0, 1.0, 1.0], ["a", "a", "a"]).low)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        bootstrap([0.1, float("nan")])
    with pytest.raises(ValueError, match="clusters"):
        bootstrap([0.1, 0.2], ["a"])


def test_holm_by_hand():
    # Smallest first: 4 · 0.005 = 0.02, 3 · 0.01 = 0.03, 2 · 0.03 = 0.06, and 0.04 rises to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == []
