"""Scoring of answers: metrics by hand, exclusions, samples, suites; threads and order change
nothing."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spftcore.benchmarks import Benchmark, Question
from spftcore.errors import UsageError
from spftcore.metrics.predictions import Answer
from spftcore.metrics.records import Scored
from spftcore.metrics.scoring import METRICS, Metric, score
from spftcore.metrics.summary import summarise
from spftcore.verify import Executor, Limits
from spftcore.verify.families import build_families

COUNT = "select count(*) from city"
NAMES = "select name from city order by city_id"
TIE = "select guest from visit order by length(guest) desc limit 1"  # Noor and Lima tie
ENDLESS = "with recursive r(n) as (select 1 union all select n + 1 from r) select count(*) from r"


def benchmark(folder: Path, golds: Sequence[str], database: str = "travel") -> Benchmark:
    questions = tuple(
        Question(str(n), n, database, f"question {n}", gold, "", "", f"record {n}")
        for n, gold in enumerate(golds, 1)
    )
    files = {"travel": folder / "travel.sqlite"}
    return Benchmark("pairs", Path("dev.json"), questions, False, files, None)


def answered(*texts: str) -> list[Answer]:
    return [Answer(text) for text in texts]


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(threads=1, limits=Limits(steps=200_000)) as one:
        yield one


def test_each_comparison_judges_by_its_own_rule(executor: Executor, travel: Path) -> None:
    gold = "select name, country from city"
    answers = [
        "select country, name from city",  # columns in another order
        "select name, country from city union all select name, country from city",  # twice
        gold,
        "select name, country from city where city_id < 3",  # half of the rows
    ]
    scored = score(
        benchmark(travel, [gold] * 4), answered(*answers), executor, ("spider", "bag", "bird",
        "soft_f1"),
    )  # fmt: skip
    found = [[one.scores[m] for m in ("spider", "bag", "bird")] for one in scored]
    assert found == [[1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]
    # Two of the gold's four rows: precision 1, recall 1/2, F1 2/3; values count in any column.
    assert [one.scores["soft_f1"] for one in scored] == pytest.approx([1, 1, 1, 2 / 3])


def test_questions_that_cannot_be_judged_say_why(executor: Executor, travel: Path) -> None:
    broken = travel.parent / "broken.sqlite"
    broken.write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    asked = benchmark(travel, [COUNT, "select nope from city", ENDLESS, COUNT, COUNT])
    questions = list(asked.questions)
    questions[3] = replace(questions[3], database="nowhere")
    questions[4] = replace(questions[4], database="broken")
    files = {**asked.databases, "broken": broken}
    asked = replace(asked, questions=tuple(questions), databases=files)
    scored = score(asked, answered(*["select 4"] * 5), executor, ("bag",))
    assert [one.excluded for one in scored] == [
        "", "gold does not run", "gold is over the limits", "no database",
        "database cannot be read",
    ]  # fmt: skip
    assert [one.scores for one in scored[1:]] == [{}] * 4
    summary = summarise(scored)
    assert (summary.questions, summary.counted) == (5, 1)
    assert summary.metrics["bag"].total == 1


def test_answers_that_do_not_run_are_wrong_and_their_status_is_kept(
    executor: Executor, travel: Path
) -> None:
    answers = answered("select nope from city", "", "selec", ENDLESS, "select 4")
    scored = score(benchmark(travel, [COUNT] * 5), answers, executor, METRICS[:3])
    assert [one.status for one in scored] == [
        "missing_name", "syntax_error", "syntax_error", "step_budget", "ok",
    ]  # fmt: skip
    assert scored[0].message == "no such column: nope"
    assert [one.scores["bag"] for one in scored] == [0, 0, 0, 0, 1]
    summary = summarise(scored)
    assert summary.no_answer == 1
    assert summary.statuses == {
        "missing_name": 1, "syntax_error": 2, "step_budget": 1, "ok": 1,
    }  # fmt: skip


def test_what_the_clock_stops_is_left_out(travel: Path) -> None:
    with Executor(threads=1, limits=Limits(steps=1 << 50, seconds=0.05)) as hasty:
        scored = score(benchmark(travel, [COUNT]), answered(ENDLESS), hasty, ("bag", "ves_steps"))
    assert (scored[0].status, scored[0].scores) == ("time_budget", {})


def test_steps_are_compared_by_the_square_root_of_their_ratio(
    executor: Executor, travel: Path
) -> None:
    long = "select count(*) from city, city as c where c.city_id = city.city_id"
    scored = score(
        benchmark(travel, [long, COUNT, COUNT]),
        answered(COUNT, COUNT, "select 5"),
        executor,
        ("ves_steps",),
    )
    path = travel / "travel.sqlite"
    slow, fast = executor.execute([(path, long), (path, COUNT)])
    expected = (slow.steps / fast.steps) ** 0.5
    assert [one.scores["ves_steps"] for one in scored] == pytest.approx([expected, 1, 0])
    assert expected > 1


def test_times_are_measured_of_right_answers_alone(executor: Executor, travel: Path) -> None:
    scored = score(
        benchmark(travel, [COUNT, COUNT]), answered("select 4", "select 5"), executor,
        ("ves", "r_ves"), repeats=3,
    )  # fmt: skip
    assert scored[0].scores["ves"] > 0
    assert round(scored[0].scores["r_ves"] ** 2, 9) in (0.25, 0.5, 0.75, 1, 1.25)
    assert scored[1].scores == {"ves": 0, "r_ves": 0}


def test_samples_have_pass_at_k_and_a_vote(executor: Executor, travel: Path) -> None:
    answers = [
        Answer("select 4", ("select 5", "select 4", "select 2 + 2", "selec")),
        Answer("select 4", ("select 5", "select 5", "select 4", "select 6")),
    ]
    scored = score(benchmark(travel, [COUNT, COUNT]), answers, executor, ("bird", "bag"))
    # 2 of 4 right: a pair misses both in 1 of 6 cases. 1 of 4: in 3 of 6.
    assert [one.scores["pass@1"] for one in scored] == pytest.approx([1 / 2, 1 / 4])
    assert [one.scores["pass@2"] for one in scored] == pytest.approx([5 / 6, 1 / 2])
    assert [one.scores["pass@4"] for one in scored] == [1, 1]
    assert [one.scores["vote"] for one in scored] == [1, 0]
    assert scored[0].samples == answers[0].samples


def test_an_unstable_gold_is_told_and_what_hangs_on_it(executor: Executor, travel: Path) -> None:
    golds = [COUNT, COUNT, TIE, TIE]
    answers = answered("select 4", "select 5", TIE, "select 'Lima'")
    scored = score(benchmark(travel, golds), answers, executor, ("bag",))
    assert [one.unstable for one in scored] == ["", "", "ties", "ties"]
    ties = summarise(scored).ties["bag"]
    assert (ties.right, ties.wrong) == (1, 1)
    assert (ties.without.right, ties.without.total) == (1, 2)
    assert ties.share == 1 / 2
    unasked = score(benchmark(travel, golds), answers, executor, ("bag",), stability=False)
    assert not any(one.unstable for one in unasked)


# -- suites -------------------------------------------------------------------------------------


def test_a_family_tells_a_near_miss(travel: Path, tmp_path: Path) -> None:
    build_families({"travel": travel / "travel.sqlite"}, {"travel": [COUNT]}, tmp_path)
    with Executor(threads=1, families=tmp_path) as executor:
        scored = score(
            benchmark(travel, [COUNT] * 3), answered("select 4", COUNT, "select 5"), executor,
            ("bag", "ts"), families=tmp_path,
        )  # fmt: skip
    assert [one.scores for one in scored] == [
        {"bag": 1, "ts": 0}, {"bag": 1, "ts": 1}, {"bag": 0, "ts": 0},
    ]  # fmt: skip
    assert [one.near_miss for one in scored] == [True, False, False]


def test_an_official_suite_is_compared_as_its_evaluator_does(travel: Path, tmp_path: Path) -> None:
    suite = tmp_path / "travel"
    suite.mkdir()
    for number in range(3):
        connection = sqlite3.connect(suite / f"travelv{number}.sqlite")
        connection.execute("create table city (city_id int, name text, country text)")
        rows = [(k, f"n{k}", f"c{k % (number + 1)}") for k in range(5 + number)]
        connection.executemany("insert into city values (?, ?, ?)", rows)
        connection.commit()
        connection.close()
    gold = "select name, country from city"
    with Executor(threads=1, families=tmp_path) as executor:
        scored = score(
            benchmark(travel, [gold, gold, COUNT]),
            answered("select country, name from city", gold + " limit 6", "select 4"),
            executor, ("ts",), families=tmp_path,
        )  # fmt: skip
    # Columns in another order are right there; the last variant has seven rows.
    assert [one.scores["ts"] for one in scored] == [1, 0, 0]


def test_databases_without_a_family_have_no_ts(
    executor: Executor, travel: Path, tmp_path: Path
) -> None:
    with Executor(threads=1, families=tmp_path) as there:
        scored = score(
            benchmark(travel, [COUNT]), answered(COUNT), there, ("bag", "ts"), families=tmp_path
        )
    assert scored[0].scores == {"bag": 1}
    assert summarise(scored).unjudged == {}
    with pytest.raises(UsageError, match="--families"):
        score(benchmark(travel, [COUNT]), answered(COUNT), executor, ("ts",))


def test_there_must_be_one_answer_per_question(executor: Executor, travel: Path) -> None:
    with pytest.raises(UsageError, match="1 answers to 2 questions"):
        score(benchmark(travel, [COUNT, COUNT]), answered(COUNT), executor, ("bag",))


# -- properties ---------------------------------------------------------------------------------

GOLDS = (COUNT, NAMES, TIE, "select country from city", "select nope", "select 1 where 0")
ANSWERS = ("select 4", COUNT, NAMES, "select name from city", "", "select 1, 2 where 0", TIE)
EVERY: tuple[Metric, ...] = ("spider", "bag", "bird", "soft_f1", "ves_steps")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from(GOLDS), st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=3)
        ),
        min_size=1,
        max_size=12,
    ),
    threads=st.integers(2, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_threads_and_the_order_of_questions_change_nothing(
    travel: Path,
    executor: Executor,
    pairs: list[tuple[str, list[str]]],
    threads: int,
    seed: int,
) -> None:
    asked = benchmark(travel, [gold for gold, _ in pairs])
    answers = [Answer(texts[0], tuple(texts)) for _, texts in pairs]
    scored = score(asked, answers, executor, EVERY)
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    shuffled = replace(asked, questions=tuple(asked.questions[i] for i in order))
    with Executor(threads=threads, limits=executor.limits) as other:
        again = score(shuffled, [answers[i] for i in order], other, EVERY)
    by_id: dict[str, Scored] = {one.id: one for one in again}
    assert [by_id[one.id] for one in scored] == scored
    first, second = summarise(scored), summarise(again)
    assert first.metrics.keys() == second.metrics.keys()
    for name, value in first.metrics.items():
        assert second.metrics[name].total == value.total
        assert second.metrics[name].mean == pytest.approx(value.mean, nan_ok=True)
    assert first.statuses == second.statuses
    assert first.excluded == second.excluded
