"""Answers to a benchmark: kept as they come, gone on with, asked anew when something changed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAVEL_PAIRS

from spftcore import evaluate
from spftcore.benchmarks import Benchmark, read_benchmark
from spftcore.errors import SpftError, UsageError
from spftcore.inference import predicting
from spftcore.inference.opening import ModelSource, OpenModel
from spftcore.inference.predicting import FILE, Predictions, Predictor
from spftcore.inference.strategies import Strategy

# Hot enough that the samples of the memorised model differ.
VOTE = Strategy(samples=3, temperature=3.0)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "dev.jsonl"
    records = [
        {"id": f"q{n}", "database": "travel", "question": question, "sql": sql}
        for n, (question, sql) in enumerate(TRAVEL_PAIRS)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def benchmark_(questions: Path, travel: Path) -> Benchmark:
    return read_benchmark(questions, travel)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the questions that models were asked, in all."""
    ids: list[str] = []

    class Counting(OpenModel):
        @contextmanager
        def answerer(self, *arguments: Any, **options: Any) -> Iterator[Any]:
            with super().answerer(*arguments, **options) as answerer:

                class Spy:
                    def answers(self, questions: Any) -> Any:
                        ids.extend(question.id for question in questions)
                        return answerer.answers(questions)

                yield Spy()

    monkeypatch.setattr(predicting, "OpenModel", Counting)
    return ids


def predict(
    run: Path,
    benchmark: Benchmark,
    folder: Path,
    strategy: Strategy = VOTE,
    *,
    resume: bool = False,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> Predictions:
    predictor = Predictor(ModelSource.find(str(run), options=options), strategy)
    return predictor.predict(benchmark, folder, resume=resume, **more)


def test_answers_come_in_the_order_of_the_questions_and_lie_in_the_file(
    travel_run: Path, benchmark_: Benchmark, tmp_path: Path
) -> None:
    found = predict(travel_run, benchmark_, tmp_path / "out", Strategy())
    assert [answer.sql for answer in found.answers] == [sql for _, sql in TRAVEL_PAIRS]
    assert (found.kept, found.notes) == (0, {})
    lines = (tmp_path / "out" / FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [q.id for q in benchmark_.questions]


def test_samples_are_the_draws_without_the_greedy_answer(
    travel_run: Path, benchmark_: Benchmark, tmp_path: Path
) -> None:
    found = predict(travel_run, benchmark_, tmp_path / "out")
    assert {len(answer.samples) for answer in found.answers} == {3}
    record = json.loads((tmp_path / "out" / FILE).read_text(encoding="utf-8").splitlines()[0])
    assert record["greedy"] == TRAVEL_PAIRS[0][1]


def test_a_stopped_run_goes_on_with_the_same_result_and_asks_nothing_twice(
    travel_run: Path, benchmark_: Benchmark, asked: list[str], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    predict(travel_run, benchmark_, whole)
    asked.clear()

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(travel_run, benchmark_, parts, report=stop)
    # What a kill in the midst of writing leaves.
    with (parts / FILE).open("a", encoding="utf-8") as file:
        file.write('{"id": "q5", "databa')
    asked.clear()
    seen: list[int] = []
    found = predict(
        travel_run, benchmark_, parts, resume=True, report=lambda _, done, total: seen.append(done)
    )
    assert found.kept == 2
    assert len(asked) == len(TRAVEL_PAIRS) - 2
    assert seen == [2, 3, 4, 5, 6]
    assert (parts / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_when_all_is_there_the_model_is_not_even_loaded(
    travel_run: Path, benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = predict(travel_run, benchmark_, tmp_path / "out")
    monkeypatch.setattr(predicting, "OpenModel", None)
    again = predict(travel_run, benchmark_, tmp_path / "out", resume=True)
    assert again.answers == first.answers
    assert again.kept == len(TRAVEL_PAIRS)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (Strategy(samples=3, temperature=3.0, seed=2), {}),
        (Strategy(samples=2, temperature=3.0), {}),
        (Strategy(samples=3, temperature=3.0, repair="errors"), {}),
        (VOTE, {"prompt": {"style": "compact"}}),
        (VOTE, {"prompt": {"max_completion_tokens": 47}}),
        (VOTE, {"limits": {"steps": 1000}}),
    ],
)
def test_answers_of_another_strategy_or_prompt_are_asked_again(
    strategy: Strategy,
    options: dict[str, Any],
    travel_run: Path,
    benchmark_: Benchmark,
    asked: list[str],
    tmp_path: Path,
) -> None:
    predict(travel_run, benchmark_, tmp_path / "out")
    asked.clear()
    found = predict(
        travel_run, benchmark_, tmp_path / "out", strategy, resume=True, options=options
    )
    assert found.kept == 0
    assert len(asked) == len(TRAVEL_PAIRS)


def test_a_question_that_changed_is_asked_again_alone(
    travel_run: Path, questions: Path, travel: Path, asked: list[str], tmp_path: Path
) -> None:
    predict(travel_run, read_benchmark(questions, travel), tmp_path / "out")
    asked.clear()
    text = questions.read_text(encoding="utf-8").replace("List all guests.", "List the guests!")
    questions.write_text(text, encoding="utf-8")
    predict(travel_run, read_benchmark(questions, travel), tmp_path / "out", resume=True)
    assert asked == ["q5"]


@pytest.mark.parametrize(("strategy", "again"), [(VOTE, True), (Strategy(), False)])
def test_a_vote_is_taken_again_when_the_database_has_changed(
    strategy: Strategy,
    again: bool,
    travel_run: Path,
    questions: Path,
    travel: Path,
    asked: list[str],
    tmp_path: Path,
) -> None:
    databases = tmp_path / "databases"
    shutil.copytree(travel, databases)
    predict(travel_run, read_benchmark(questions, databases), tmp_path / "out", strategy)
    asked.clear()
    with closing(sqlite3.connect(databases / "travel.sqlite")) as connection:
        connection.execute("pragma user_version = 7")
    benchmark = read_benchmark(questions, databases)
    found = predict(travel_run, benchmark, tmp_path / "out", strategy, resume=True)
    assert len(asked) == (len(TRAVEL_PAIRS) if again else 0)
    assert found.kept == len(TRAVEL_PAIRS) - len(asked)


def test_answers_that_are_there_are_not_overwritten_unasked(
    travel_run: Path, benchmark_: Benchmark, tmp_path: Path
) -> None:
    predict(travel_run, benchmark_, tmp_path / "out", Strategy())
    with pytest.raises(UsageError, match=r"6 answers already.*--resume"):
        predict(travel_run, benchmark_, tmp_path / "out", Strategy())


def test_questions_without_a_database_or_text_have_a_cause_and_do_not_stop_the_rest(
    travel_run: Path, questions: Path, travel: Path, tmp_path: Path
) -> None:
    with questions.open("a", encoding="utf-8") as file:
        for n, (database, text) in enumerate([("gone", "How many?"), ("travel", "")]):
            record = {"id": f"x{n}", "database": database, "question": text, "sql": "select 1"}
            file.write(json.dumps(record) + "\n")
    found = predict(travel_run, read_benchmark(questions, travel), tmp_path / "out", Strategy())
    assert [answer.sql for answer in found.answers[-2:]] == ["", ""]
    assert found.notes == {
        "no answer: There is no database 'gone' to ask.": 1,
        "no answer: The question is empty.": 1,
    }


def test_a_folder_that_cannot_be_written_to_is_an_error(
    travel_run: Path, benchmark_: Benchmark, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SpftError, match="Cannot write"):
        predict(travel_run, benchmark_, tmp_path / "file" / "out", Strategy())


def command(*arguments: object) -> int:
    return evaluate.main([str(argument) for argument in arguments])


def test_the_command_scores_a_model_as_it_scores_the_file_the_model_left(
    travel_run: Path, questions: Path, travel: Path, tmp_path: Path
) -> None:
    common = (questions, "--databases", travel)
    out = tmp_path / "out"
    asking = ("--model", travel_run, "--samples", 3, "--temperature", 3, "--output", out)
    assert command(*common, *asking) == 0
    again = tmp_path / "again"
    assert command(*common, "--predictions", out / FILE, "--output", again) == 0
    scores = [(folder / "scores.jsonl").read_bytes() for folder in (out, again)]
    assert scores[0] == scores[1]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["system"]["strategy"]["samples"] == 3
    assert "pass@3" in scores[0].decode()
    connection = sqlite3.connect(travel / "travel.sqlite")
    gold = [connection.execute(sql).fetchall() for _, sql in TRAVEL_PAIRS]
    taken = [json.loads(line) for line in (out / FILE).read_text("utf-8").splitlines()]
    right = [
        sorted(connection.execute(record["sql"]).fetchall()) == sorted(expected)
        for record, expected in zip(taken, gold, strict=True)
    ]
    judged = [json.loads(line)["scores"]["bag"] for line in scores[0].splitlines()]
    assert judged == [float(one) for one in right]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--predictions FILE, or who is asked with --model"),
        (("--model", "m", "--predictions", "p"), "--predictions FILE, or who is asked"),
        (("--predictions", "p", "--resume"), "need --model"),
        (("--model", "nowhere/x/y"), "There is no folder"),
        (("--model", "m", "--samples", "-1"), "--samples must be"),
    ],
)
def test_wrong_usage_is_said(
    arguments: tuple[str, ...],
    words: str,
    questions: Path,
    travel: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(questions, "--databases", travel, *arguments) in (1, 2)
    assert words in capsys.readouterr().err
