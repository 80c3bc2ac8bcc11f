"""Answers are judged as they come, and judged as they would be all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spftcore.rollout.verifying import Tally, judged
from spftcore.verify import Executor

GOLDS = ("select count(*) from city", "select name from city where country = 'Peru'")
ANSWERS = (
    (0, "select count(*) from city"),
    (1, "select name from city"),
    (0, "selec"),
    (0, "select count(*) from city"),
    (1, "select count(*) from city"),
    (0, "select 4"),
    (1, "select name from city"),
    (0, ""),
)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(threads=1) as found:
        yield found


def test_verdicts_are_those_of_one_batch(executor: Executor, travel: Path) -> None:
    questions = [(travel / "travel.sqlite", gold) for gold in GOLDS]
    found = [(place, sql, j.verdict) for place, sql, j in judged(executor, questions, ANSWERS)]
    together = executor.verify([(*questions[place], [sql]) for place, sql in ANSWERS])
    expected = [(p, s, j.verdict) for (p, s), (j,) in zip(ANSWERS, together, strict=True)]
    assert sorted(found) == sorted(expected)
    assert len({verdict for _, _, verdict in found}) == 2


def test_equal_answers_to_a_question_are_judged_once_and_all_counted(
    executor: Executor, travel: Path
) -> None:
    database, tally = travel / "travel.sqlite", Tally()
    answers = [(0, f"select {i % 3}") for i in range(300)]
    found = list(judged(executor, [(database, GOLDS[0])], answers, tally=tally))
    assert sorted(sql for _, sql, _ in found) == sorted(sql for _, sql in answers)
    assert (tally.answers, tally.distinct) == (300, 3)
    # Three answers and their gold; not 300.
    assert executor.counters["queries"] <= 6


def test_one_answer_to_two_questions_is_two_answers(executor: Executor, travel: Path) -> None:
    questions = [(travel / "travel.sqlite", gold) for gold in GOLDS]
    tally = Tally()
    found = list(judged(executor, questions, [(0, GOLDS[0]), (1, GOLDS[0])], tally=tally))
    assert {place: j.verdict.name for place, _, j in found} == {0: "RIGHT", 1: "WRONG"}
    assert tally.distinct == 2


def test_an_answer_is_judged_before_the_last_one_is_written(
    executor: Executor, travel: Path
) -> None:
    seen: list[str] = []

    def answers() -> Iterator[tuple[int, str]]:
        for i in range(1_000_000):
            if seen:
                return
            yield 0, f"select {i}"
        pytest.fail("nothing was judged while a million answers were written")

    for _, sql, _ in judged(executor, [(travel / "travel.sqlite", GOLDS[0])], answers()):
        seen.append(sql)
    assert seen


def test_a_broken_database_fails_its_own_answers_alone(
    executor: Executor, travel: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.sqlite").write_bytes(b"no database")
    questions = [(tmp_path / "bad.sqlite", GOLDS[0]), (travel / "travel.sqlite", GOLDS[0])]
    found = judged(executor, questions, [(0, GOLDS[0]), (1, GOLDS[0])])
    assert {place: j.verdict.name for place, _, j in found} == {0: "UNJUDGED", 1: "RIGHT"}


def test_what_the_generator_raises_reaches_the_caller_and_leaves_the_executor_usable(
    executor: Executor, travel: Path
) -> None:
    def answers() -> Iterator[tuple[int, str]]:
        yield 0, "select 1"
        raise KeyboardInterrupt

    questions = [(travel / "travel.sqlite", GOLDS[0])]
    with pytest.raises(KeyboardInterrupt):
        list(judged(executor, questions, answers()))
    ((_, _, judgement),) = judged(executor, questions, [(0, GOLDS[0])])
    assert judgement.verdict.name == "RIGHT"


def test_no_answers_give_no_judgements(executor: Executor) -> None:
    assert list(judged(executor, [], [])) == []
