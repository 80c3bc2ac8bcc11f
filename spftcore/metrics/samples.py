"""Several answers to one question: pass@k, and the answer that most of them agree with."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def pass_at_k(right: int, drawn: int, k: int) -> float:
    """The probability that at least one of k answers is right, without bias.

    1 − C(drawn − right, k) / C(drawn, k): the share of the k-subsets of the drawn answers that
    hold a right one (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    Args:
        right: right answers among those drawn.
        drawn: answers.
        k: at most `drawn`.

    Raises:
        ValueError: k is below 1 or above `drawn`.
    """
    if not 1 <= k <= drawn:
        raise ValueError(f"k must be between 1 and {drawn}, not {k}")
    return 1 - comb(drawn - right, k) / comb(drawn, k)


def majority(results: Sequence[str]) -> int:
    """Which answer stands for the result that most answers share.

    Args:
        results: of each answer a name of its result, as `Outcome.fingerprint` is; empty where it
            did not run: such answers have no vote.

    Returns:
        The first answer with the result of most votes; of results with as many votes, the one that
        came first. 0 where nothing ran.
    """
    votes: dict[str, int] = {}
    for result in results:
        if result:
            votes[result] = votes.get(result, 0) + 1
    if not votes:
        return 0
    return results.index(max(votes, key=votes.__getitem__))  # the first of equals


def ks_of(drawn: int) -> tuple[int, ...]:
    """For which k pass@k is told of so many samples: 1, 2, 4, … and all of them."""
    powers = [1 << i for i in range(drawn.bit_length()) if 1 << i < drawn]
    return (*powers, drawn)
