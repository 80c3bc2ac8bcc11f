"""`python -m spftcore.evaluate --predictions`: formats, cleaning, output, errors, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spftcore import evaluate
from spftcore.metrics.predictions import clean
from spftcore.metrics.records import read_scores
from spftcore.verify.families import build_families

COUNT = "select count(*) from city"
NAMES = "select name from city"


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def questions(tmp_path: Path, travel: Path) -> Path:
    """Three questions in Spider's form, their database beside them in its official layout."""
    folder = tmp_path / "spider" / "database" / "travel"
    folder.mkdir(parents=True)
    (folder / "travel.sqlite").write_bytes((travel / "travel.sqlite").read_bytes())
    golds = [COUNT, NAMES, "select country, name from city order by name limit 1"]
    records = [{"db_id": "travel", "question": f"q{i}", "query": g} for i, g in enumerate(golds)]
    return write(tmp_path / "spider" / "dev.json", records)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command; gives (exit code, stdout, stderr, scores, summary)."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, output: Path | None = None):
        output = output or tmp_path / "out"
        before = signal.getsignal(signal.SIGTERM)
        code = evaluate.main(["--output", str(output), "--threads", "1", *map(str, arguments)])
        signal.signal(signal.SIGTERM, before)
        captured = capsys.readouterr()
        if not (output / "summary.json").exists():
            return code, captured.out, captured.err, [], {}
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        return code, captured.out, captured.err, read_scores(output / "scores.jsonl"), summary

    return call


# -- scores -------------------------------------------------------------------------------------


def test_lines_of_sql_are_scored_with_intervals_classes_and_ties(run, questions, tmp_path):
    answers = (
        f"select 4\n{NAMES} where city_id < 4\nselect name, country from city where city_id=3\n"
    )
    code, out, err, scores, summary = run(
        questions, "--predictions", write(tmp_path / "p.txt", answers)
    )
    assert (code, err) == (0, "")
    assert [one.scores for one in scores] == [
        {"spider": 1, "bag": 1}, {"spider": 0, "bag": 0}, {"spider": 1, "bag": 0},
    ]  # fmt: skip
    assert [one.hardness for one in scores] == ["easy", "easy", "medium"]
    # Wilson for 2 of 3: (2/3 + z²/6 ± z √(2/27 + z²/36)) / (1 + z²/3) with z = 1.96.
    row = next(line for line in out.splitlines() if "EX (spider)" in line and "%" in line)
    assert row.split() == ["EX", "(spider)", "2", "3", "66.7", "%", "20.8", "to", "93.9"]
    assert summary["metrics"]["bag"] == {
        "total": 3, "mean": pytest.approx(1 / 3), "right": 1,
        "low": pytest.approx(0.0615, abs=1e-4), "high": pytest.approx(0.7923, abs=1e-4),
    }  # fmt: skip
    assert summary["groups"]["hardness"]["easy"]["spider"]["total"] == 2
    assert summary["benchmark"]["kind"] == "spider"
    assert summary["settings"]["metrics"] == ["spider", "bag"]
    assert {"date", "versions", "system", "excluded", "statuses", "ties"} <= summary.keys()
    assert f"Scores: {tmp_path / 'out'}" in out


def test_bird_is_scored_by_its_own_metrics(run, questions, tmp_path, travel):
    records = [
        {"question_id": 7, "db_id": "travel", "question": "q", "evidence": None, "SQL": COUNT,
         "difficulty": "simple"},
        {"question_id": 9, "db_id": "travel", "question": "q", "evidence": "e", "SQL": NAMES,
         "difficulty": "challenging"},
    ]  # fmt: skip
    golds = write(tmp_path / "bird.json", records)
    answers = {"0": "select 4\t----- bird -----\ttravel", "1": "select 1\t----- bird -----\ttravel"}
    code, out, _, scores, summary = run(
        golds, "--databases", travel, "--predictions", write(tmp_path / "p.json", answers)
    )
    assert code == 0
    assert list(summary["metrics"]) == ["bird", "soft_f1", "ves_steps"]
    assert [(one.id, one.scores["bird"], one.difficulty) for one in scores] == [
        ("7", 1, "simple"), ("9", 0, "challenging"),
    ]  # fmt: skip
    assert out.index("simple") < out.index("challenging")


def test_ts_is_added_when_families_are_given(run, questions, tmp_path):
    database = questions.parent / "database" / "travel" / "travel.sqlite"
    build_families({"travel": database}, {"travel": [COUNT]}, tmp_path / "families")
    answers = write(tmp_path / "p.txt", f"select 4\n{NAMES}\nselect 1\n")
    code, out, _, scores, _ = run(
        questions, "--predictions", answers, "--families", tmp_path / "families"
    )
    assert code == 0
    assert [one.scores["ts"] for one in scores] == [0, 1, 0]
    assert "Right on the database, wrong on its family: 1." in out


@pytest.mark.parametrize("metrics", ["ts", "spider,ts"])
def test_a_metric_that_no_question_can_be_judged_by_is_listed_as_such(
    run, questions, tmp_path, metrics
):
    answers = write(tmp_path / "answers.txt", f"{COUNT}\n{NAMES}\nselect 1\n")
    (tmp_path / "families").mkdir()
    options = ("--families", tmp_path / "families", "--metrics", metrics)
    code, out, _, _, summary = run(questions, "--predictions", answers, *options)
    assert code == 0
    assert "TS could not be judged on 3 questions" in out
    assert summary["metrics"]["ts"]["total"] == 0
    assert summary["metrics"]["ts"]["mean"] is None


def test_tables_by_other_groups(run, questions, tmp_path):
    answers = write(tmp_path / "p.txt", f"select 4\n{NAMES}\nselect 1\n")
    _, out, _, _, _ = run(questions, "--predictions", answers, "--by", "clause,database,joins")
    assert "order by" in out
    assert "travel" in out
    assert "hardness" not in out


def test_excluded_questions_are_counted_by_cause(run, questions, tmp_path):
    records = json.loads(questions.read_text())
    records[1]["db_id"] = "nowhere"
    records[2]["query"] = "select nope from city"
    write(questions, records)
    code, out, _, scores, summary = run(
        questions, "--predictions", write(tmp_path / "p.txt", "select 4\n\nselect 1\n")
    )
    assert code == 0
    assert summary["excluded"] == {"no database": 1, "gold does not run": 1}
    assert "Excluded: 2 of 3 questions (no database 1, gold does not run 1)." in out
    assert [one.excluded for one in scores] == ["", "no database", "gold does not run"]


def test_invalid_sql_and_no_answer_are_counted(run, questions, tmp_path):
    answers = write(tmp_path / "p.json", ["select nope from city", "", "select 1"])
    _, out, _, _, summary = run(questions, "--predictions", answers)
    assert "Valid SQL: 1 of 3 (missing name 1, syntax error 1; without any answer 1)." in out
    assert summary["no_answer"] == 1


def test_half_a_surrogate_in_an_answer_is_scored_and_written_as_it_came(run, questions, tmp_path):
    answers = write(tmp_path / "p.json", ["select 4", "select '\ud800'", "select '\u2028'"])
    code, _, err, scores, _ = run(questions, "--predictions", answers)
    assert (code, err) == (0, "")
    assert [one.sql for one in scores[1:]] == ["select '\ud800'", "select '\u2028'"]


def test_golds_given_as_predictions_are_remarked(run, questions, tmp_path):
    golds = [record["query"] for record in json.loads(questions.read_text())]
    _, out, _, _, _ = run(questions, "--predictions", write(tmp_path / "p.json", golds))
    assert "Every answer is the gold, letter for letter" in out


def test_lines_with_a_database_are_known_when_the_first_has_no_file(run, questions, tmp_path):
    records = json.loads(questions.read_text())
    questions.write_text(json.dumps([{"db_id": "gone", "query": COUNT}, *records]))
    lines = [f"{COUNT}\tgone", f"{COUNT}\ttravel", f"{NAMES}\ttravel", "select 1\ttravel"]
    answers = write(tmp_path / "answers.txt", "\n".join(lines))
    _, _, _, scores, summary = run(questions, "--predictions", answers)
    assert [one.sql for one in scores] == [COUNT, COUNT, NAMES, "select 1"]
    assert summary["metrics"]["spider"]["right"] == 2


def test_a_record_with_gold_and_prediction_is_scored_by_its_prediction(run, questions, tmp_path):
    records = [{**r, "prediction": "select 4"} for r in json.loads(questions.read_text())]
    _, _, _, scores, _ = run(questions, "--predictions", write(tmp_path / "p.json", records))
    assert [one.sql for one in scores] == ["select 4"] * 3


def test_samples_give_pass_at_k_and_a_vote(run, questions, tmp_path):
    lines = [
        {"samples": ["select 5", "select 4", "select 4"]},
        {"sql": NAMES, "samples": ["select 1", NAMES, "selec"]},
        {"samples": ["select 1", "select 2", "select 3"]},
    ]
    path = write(tmp_path / "p.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _, out, _, scores, summary = run(questions, "--predictions", path)
    assert [one.scores["vote"] for one in scores] == [1, 0, 0]
    assert summary["metrics"]["pass@1"]["mean"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert summary["metrics"]["pass@3"]["mean"] == pytest.approx(2 / 3)
    assert "majority vote" in out
    assert scores[1].sql == NAMES


# -- what is stripped ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sql", "stripped"),
    [
        ("select 1", "select 1", []),
        ("  select 1;\n", "select 1;", []),
        ("```sql\nselect 1\n```", "select 1", ["fence"]),
        ("```select 1```", "select 1", ["fence"]),
        ("```SQLite\nselect 1", "select 1", ["fence"]),
        ("Here it is:\n```sql\nselect 1\n```\nIt counts.", "select 1", ["fence"]),
        ("```sql\nselect '`'\n```\n```sql\nselect 2\n```", "select '`'", ["fence"]),
        ("SQL: select 1", "select 1", ["prefix"]),
        ("sql query :select 1", "select 1", ["prefix"]),
        ("```\nSQL: select 1\n```", "select 1", ["fence", "prefix"]),
        ("select 'SQL: x'", "select 'SQL: x'", []),
        ("select `sql` from t", "select `sql` from t", []),
        ("sqlite", "sqlite", []),
        ("", "", []),
    ],
)
def test_fences_and_prefixes_are_stripped_by_rule(text, sql, stripped):
    assert clean(text) == (sql, stripped)


def test_what_was_stripped_is_counted(run, questions, tmp_path):
    answers = ["```sql\nselect 4\n```", f"SQL: {NAMES}", "```SQL: select 1"]
    _, out, _, scores, summary = run(
        questions, "--predictions", write(tmp_path / "p.json", answers)
    )
    assert [one.sql for one in scores] == ["select 4", NAMES, "select 1"]
    assert summary["system"]["stripped"] == {"fence": 2, "prefix": 2}
    assert "Stripped from the predictions: fence 2, prefix 2." in out


@pytest.mark.parametrize(
    ("text", "sql", "dropped"),
    [
        ("a\n\nb\n", ["a", "", "b"], 0),  # as many lines as questions: an empty answer
        ("a\nb\n\nc\n\n", ["a", "b", "c"], 1),  # more lines: blank ones are none
        ("```sql\na\n```\n```sql\nb\n```\n```sql\nc\n```\n", ["a", "b", "c"], 6),
        ("a\nb\nc\n\n\n", ["a", "b", "c"], 0),  # at the end of a file
        ("\ufeffa\r\nb\r\nc", ["a", "b", "c"], 0),
    ],
)
def test_blank_lines(run, questions, tmp_path, text, sql, dropped):
    path = tmp_path / "p.txt"
    path.write_bytes(text.encode())
    code, _, _, scores, summary = run(questions, "--predictions", path)
    assert code == 0
    assert [one.sql for one in scores] == sql
    assert summary["system"]["stripped"].get("blank line", 0) == dropped


@pytest.mark.parametrize("start", [0, 1])
def test_numbers_as_ids_are_positions(run, questions, tmp_path, start):
    answers = [{"id": i + start, "sql": f"select {i}"} for i in (2, 0, 1)]
    _, _, _, scores, _ = run(questions, "--predictions", write(tmp_path / "p.json", answers))
    assert [one.sql for one in scores] == ["select 0", "select 1", "select 2"]


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("select 1\nselect 2\n", ("2 predictions for 3 questions", "question 3", "record 3 of")),
        ("1\n2\n3\n4\n", ("4 predictions for 3 questions", "line 4 of", "has no question")),
        ("1\ttravel\n2\ttravel\n3\tshop\n", ("line 3 of", "'shop'")),
        ("", ("is empty",)),
        ("{oops}\n", ("Line 1 of", "not a JSON")),
        ('[{"id": 1}]', ("has no SQL",)),
    ],
)
def test_a_wrong_file_of_predictions_says_which(run, questions, tmp_path, content, said):
    code, out, err, scores, _ = run(questions, "--predictions", write(tmp_path / "p.txt", content))
    assert (code, out, scores) == (1, "", [])
    for part in said:
        assert part.lower() in err.lower()
    assert "Traceback" not in err


def test_missing_and_unknown_ids_are_named(run, tmp_path, travel):
    golds = [{"id": f"q{i}", "database": "travel", "sql": COUNT} for i in range(12)]
    pairs = write(tmp_path / "own.json", golds)
    some = [{"id": f"q{i}", "sql": "select 4"} for i in range(4)]
    command = (pairs, "--databases", travel, "--predictions")
    code, _, err, _, _ = run(*command, write(tmp_path / "p.json", some))
    assert code == 1
    assert "no prediction for 8 of 12 questions: 'q4' (record 5 of" in err
    assert "and 3 more" in err
    every = [{"id": f"q{i}", "sql": "select 4"} for i in range(13)]
    code, _, err, _, _ = run(*command, write(tmp_path / "p.json", every))
    assert "1 predictions that no question has the id of: 'q12'" in err
    twice = [*some, some[0]]
    code, _, err, _, _ = run(*command, write(tmp_path / "p.json", twice))
    assert "has the id 'q0', as record 1 of" in err


def test_bytes_that_are_not_utf8_are_named_by_their_line(run, questions, tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"select 1\nselect '\xe9'\nselect 3\n")
    code, _, err, _, _ = run(questions, "--predictions", path)
    assert code == 1
    assert f"Line 2 of {path} is not UTF-8" in err


def test_no_question_that_can_be_judged_is_an_error(run, questions, tmp_path):
    records = [{**r, "db_id": "nowhere"} for r in json.loads(questions.read_text())]
    write(questions, records)
    code, _, err, _, _ = run(questions, "--predictions", write(tmp_path / "p.txt", "1\n2\n3\n"))
    assert code == 1
    assert "None of the 3 questions" in err
    assert "no database: 3" in err


def test_an_evaluation_does_not_take_the_place_of_its_own_predictions(run, questions, tmp_path):
    (tmp_path / "out").mkdir()
    lines = [json.dumps({"sql": sql}) for sql in (COUNT, NAMES, "select 1")]
    answers = write(tmp_path / "out" / "scores.jsonl", "\n".join(lines))
    before = answers.read_bytes()
    code, _, err, _, _ = run(questions, "--predictions", answers)
    assert code == 2
    assert "Choose another folder with --output" in err
    assert answers.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["--metrics", "bagg"], "Unknown metric 'bagg'; there are spider", 2),
        (["--metrics", ","], "No metric is named", 2),
        (["--metrics", "ts"], "--families", 2),
        (["--by", "colour"], "Unknown group 'colour'", 2),
        (["--repeats", "0"], "at least 1", 2),
        (["--steps", "0"], "Limits.steps", 2),
        (["--families", "nowhere"], "does not exist", 1),
        (["--databases", "nowhere"], "does not exist", 1),
        (["--metric", "bag"], "Did you mean '--metrics'", 2),
    ],
)
def test_wrong_options(run, questions, tmp_path, options, said, code):
    answers = write(tmp_path / "p.txt", "1\n2\n3\n")
    got, _, err, _, _ = run(questions, "--predictions", answers, *options)
    assert (got, said in err, "Traceback" in err) == (code, True, False), err


def test_there_must_be_something_to_score(run, questions):
    code, _, err, _, _ = run(questions)
    assert code == 2
    assert "--predictions" in err


def test_a_folder_that_cannot_be_written_to_is_an_error(run, questions, tmp_path):
    taken = write(tmp_path / "taken", "mine")
    answers = write(tmp_path / "p.txt", "1\n2\n3\n")
    code, _, err, _, _ = run(questions, "--predictions", answers, output=taken)
    assert code == 1
    assert "--output" in err
    assert taken.read_text() == "mine"


def test_the_default_folder_is_named_after_questions_and_predictions(questions, tmp_path):
    write(tmp_path / "mine.txt", "1\n2\n3\n")
    command = [sys.executable, "-m", "spftcore.evaluate", str(questions)]
    done = subprocess.run(
        [*command, "--predictions", "mine.txt"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "160"}, check=True,
    )  # fmt: skip
    assert "Scores: evaluations/dev/mine" in done.stdout
    assert (tmp_path / "evaluations" / "dev" / "mine" / "summary.json").is_file()


def test_scoring_predictions_needs_no_model_library():
    heavy = "{'torch', 'transformers', 'scipy', 'sqlglot'}"
    code = f"import sys, spftcore.evaluate; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
