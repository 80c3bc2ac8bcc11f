"""The choice among several answers, on votes worked by hand."""

from __future__ import annotations

import itertools

import pytest

from spftcore.errors import UsageError
from spftcore.inference.strategies import (
    Candidate,
    Drawn,
    Strategy,
    choose,
    distinct,
    repaired_better,
    wants_repair,
)
from spftcore.verify import Outcome, Status


def outcome(result: str = "", rows: int = 1, *, status: Status | None = None, null: bool = False):
    """An execution whose result is called `result`; '' did not run."""
    if status is None:
        status = Status.SYNTAX_ERROR if not result else Status.OK if rows else Status.EMPTY
    return Outcome(status, "" if result else "no such column: x", rows, 1, 1, 0.0, result, null)


def candidate(sql: str, votes: int, first: int, logprob: float, found: Outcome) -> Candidate:
    return Candidate(sql, votes, first, logprob, found)


def test_the_result_that_most_completions_give_wins_over_the_most_probable_one() -> None:
    # Greedy: result A, one vote. B by two texts, 2 + 1 votes. C: 2 votes.
    choice = choose(
        [
            candidate("a", 1, 0, -0.1, outcome("A")),
            candidate("b1", 2, 1, -5.0, outcome("B")),
            candidate("c", 2, 2, -1.0, outcome("C")),
            candidate("b2", 1, 5, -4.0, outcome("B")),
        ]
    )
    assert choice is not None
    assert (choice.candidate.sql, choice.votes, choice.voters) == ("b2", 3, 6)
    assert choice.reason == "3 of the 6 answers that run give this result"


def test_what_does_not_run_has_no_vote() -> None:
    choice = choose(
        [
            candidate("bad", 7, 0, -0.1, outcome()),
            candidate("good", 1, 3, -9.0, outcome("A")),
        ]
    )
    assert choice is not None
    assert (choice.candidate.sql, choice.votes, choice.voters) == ("good", 1, 1)
    assert choice.reason == "the only answer that runs"


@pytest.mark.parametrize(
    "nothing", [outcome("E", 0), outcome("N", 1, null=True)], ids=["no rows", "only NULL"]
)
def test_a_result_that_says_nothing_needs_more_than_four_times_the_votes(nothing: Outcome) -> None:
    full = candidate("full", 2, 1, -8.0, outcome("A"))
    choice = choose([candidate("nothing", 8, 0, -0.1, nothing), full])
    assert choice is not None
    assert choice.candidate is full
    assert choice.reason == (
        "2 of the 10 answers that run give this result; more give one that says nothing"
    )
    empty = candidate("nothing", 9, 0, -0.1, nothing)
    choice = choose([empty, full])
    assert choice is not None
    assert choice.candidate is empty
    assert choice.reason == "9 of the 11 answers that run give this result"


def test_among_results_that_say_nothing_the_votes_decide() -> None:
    choice = choose(
        [
            candidate("null", 1, 0, -0.1, outcome("N", null=True)),
            candidate("empty", 2, 1, -9.0, outcome("E", 0)),
        ]
    )
    assert choice is not None
    assert choice.candidate.sql == "empty"


def test_at_equal_votes_the_more_probable_wins_and_then_the_first() -> None:
    likely = candidate("likely", 1, 2, -1.0, outcome("B"))
    choice = choose([candidate("a", 1, 1, -2.0, outcome("A")), likely])
    assert choice is not None
    assert choice.candidate is likely
    assert choice.reason.endswith("; as many give another, whose SQL is less probable")
    greedy = candidate("greedy", 1, 0, -1.0, outcome("A"))
    choice = choose([likely, greedy])
    assert choice is not None
    assert choice.candidate is greedy


def test_the_order_of_the_candidates_does_not_matter() -> None:
    candidates = [
        candidate("a", 1, 0, -1.0, outcome("A")),
        candidate("b", 1, 1, -1.0, outcome("B")),
        candidate("b2", 1, 2, -1.0, outcome("B")),
        candidate("x", 3, 3, -0.5, outcome()),
    ]
    taken = {choose(order).candidate.sql for order in itertools.permutations(candidates)}  # type: ignore[union-attr]
    assert taken == {"b"}


def test_where_none_runs_the_greedy_answer_is_kept_with_its_error() -> None:
    choice = choose(
        [candidate("second", 4, 1, -0.1, outcome()), candidate("greedy", 1, 0, -5.0, outcome())]
    )
    assert choice is not None
    assert choice.candidate.sql == "greedy"
    assert choice.votes == choice.voters == 0
    assert choose([]) is None


def test_equal_texts_are_one_candidate_with_the_best_log_prob() -> None:
    drawn = [Drawn("a", -3.0), Drawn("", -0.1), Drawn("b", -1.0), Drawn("a", -2.0)]
    assert distinct(drawn) == [("a", 2, 0, -2.0), ("b", 1, 2, -1.0)]


def test_what_is_shown_to_the_model_again() -> None:
    fails = candidate("x", 1, 0, 0.0, outcome())
    empty = candidate("x", 1, 0, 0.0, outcome("E", 0))
    null = candidate("x", 1, 0, 0.0, outcome("N", null=True))
    full = candidate("x", 1, 0, 0.0, outcome("A"))
    gone = candidate("x", 1, 0, 0.0, outcome(status=Status.DATABASE_ERROR))
    cases = [fails, empty, null, full, gone]
    assert [wants_repair(c, "off") for c in cases] == [False] * 5
    assert [wants_repair(c, "errors") for c in cases] == [True, False, False, False, False]
    assert [wants_repair(c, "empty") for c in cases] == [True, True, True, False, False]


def test_a_second_answer_is_taken_only_where_it_does_better() -> None:
    fails = candidate("x", 1, 0, 0.0, outcome())
    empty = candidate("x", 1, 0, 0.0, outcome("E", 0))
    seconds = [outcome(), outcome("E", 0), outcome("N", null=True), outcome("A")]
    assert [repaired_better(fails, after) for after in seconds] == [False, True, True, True]
    assert [repaired_better(empty, after) for after in seconds] == [False, False, False, True]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"samples": -1}, "--samples"),
        ({"samples": 10**6}, "--samples"),
        ({"temperature": 0.0}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"repair": "twice"}, "--repair"),
    ],
)
def test_a_strategy_out_of_range_is_refused(values: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Strategy(**values)
