"""pass@k and the majority's answer, against enumeration of all choices."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spftcore.metrics.samples import ks_of, majority, pass_at_k


@pytest.mark.parametrize("drawn", range(1, 8))
def test_pass_at_k_is_the_share_of_choices_with_a_right_answer(drawn: int) -> None:
    for right in range(drawn + 1):
        verdicts = [place < right for place in range(drawn)]
        for k in range(1, drawn + 1):
            choices = list(combinations(verdicts, k))
            share = Fraction(sum(map(any, choices)), len(choices))
            assert pass_at_k(right, drawn, k) == pytest.approx(float(share), abs=1e-15)


def test_pass_at_k_worked_by_hand() -> None:
    # 2 of 4 right: of the 6 pairs one holds no right answer.
    assert pass_at_k(2, 4, 2) == pytest.approx(5 / 6)
    assert pass_at_k(1, 10, 1) == pytest.approx(0.1)
    assert pass_at_k(0, 5, 5) == 0
    assert pass_at_k(1, 5, 5) == 1


@pytest.mark.parametrize(("drawn", "k"), [(3, 0), (3, 4), (0, 1)])
def test_pass_at_k_needs_k_answers(drawn: int, k: int) -> None:
    with pytest.raises(ValueError, match="k must be"):
        pass_at_k(0, drawn, k)


def test_k_doubles_up_to_all_samples() -> None:
    assert ks_of(1) == (1,)
    assert ks_of(2) == (1, 2)
    assert ks_of(5) == (1, 2, 4, 5)
    assert ks_of(8) == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("results", "chosen"),
    [
        (["a"], 0),
        (["a", "b", "b"], 1),
        (["b", "a", "a", "b"], 0),  # as many votes: the one that came first
        (["", "", "a"], 2),  # what does not run has no vote
        (["", ""], 0),
    ],
)
def test_the_majority_worked_by_hand(results: list[str], chosen: int) -> None:
    assert majority(results) == chosen


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=9))
def test_nothing_has_more_votes_than_the_majority(results: list[str]) -> None:
    chosen = results[majority(results)]
    votes = Counter(result for result in results if result)
    assert votes[chosen] == max(votes.values(), default=0)
    assert majority(results) == results.index(chosen)
