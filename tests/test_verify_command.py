"""`python -m spftcore.verify`: file formats, the table, the outcomes, errors, exit codes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from spftcore.verify import __main__ as command
from spftcore.verify.families import build_families

COUNT = "select count(*) from city"
NAMES = "select name from city order by city_id"
GUESTS = "select guest from visit"


@pytest.fixture
def databases(tmp_path: Path, travel: Path) -> Path:
    """Two databases: travel, and shop in a folder of its own."""
    folder = tmp_path / "databases"
    (folder / "shop").mkdir(parents=True)
    (folder / "travel.sqlite").write_bytes((travel / "travel.sqlite").read_bytes())
    connection = sqlite3.connect(folder / "shop" / "shop.sqlite")
    connection.executescript(
        "create table item (name text, price real); insert into item values ('pen', 1.5);"
    )
    connection.close()
    return folder


def write(path: Path, records: list[object] | str) -> Path:
    text = records if isinstance(records, str) else "".join(json.dumps(r) + "\n" for r in records)
    path.write_text(text, encoding="utf-8")
    return path


def pair(identifier: str, sql: str, database: str = "travel", **more: object) -> dict[str, object]:
    return {"id": identifier, "database": database, "sql": sql, **more}


@pytest.fixture
def run(capsys, databases, tmp_path, monkeypatch):
    """Runs the command on the two databases; gives (exit code, stdout, stderr, outcomes)."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object):
        output = tmp_path / "outcomes.jsonl"
        options = ["--databases", str(databases), "--threads", "1", "--output", str(output)]
        before = signal.getsignal(signal.SIGTERM)
        code = command.main([*options, *map(str, arguments)])
        signal.signal(signal.SIGTERM, before)
        captured = capsys.readouterr()
        lines = output.read_text().split("\n")[:-1] if output.exists() else []
        return code, captured.out, captured.err, [json.loads(line) for line in lines]

    return call


# -- judging ------------------------------------------------------------------------------------


def test_answers_inside_the_pairs_are_judged_in_order(run, tmp_path):
    pairs = [
        pair("a", COUNT, prediction="select 4"),
        pair("b", NAMES, candidates=["select name from city", "select nope from city"]),
        pair("c", "select name from item", "shop", predictions=["select 'pen'", ""]),
    ]
    code, out, err, outcomes = run(write(tmp_path / "pairs.jsonl", pairs))
    assert (code, err) == (0, "")
    judged = [(o["id"], o["answer"], o["verdict"], o["status"]) for o in outcomes]
    assert judged == [
        ("a", 0, "right", "ok"),
        ("b", 0, "right", "ok"),
        ("b", 1, "wrong", "missing_name"),
        ("c", 0, "right", "ok"),
        ("c", 1, "wrong", "syntax_error"),
    ]
    assert "100.0 %" in out
    assert "right 3 · wrong 0 · unjudged 0" in out


def test_an_outcome_names_everything_that_was_seen(run, tmp_path):
    _, _, _, [outcome] = run(
        write(tmp_path / "pairs.jsonl", [pair("a", COUNT, prediction="select name from city")])
    )
    assert outcome["reason"] == "number of rows differs: 4, gold 1"
    assert (outcome["rows"], outcome["gold_rows"]) == (4, 1)
    assert outcome["sql"] == "select name from city"
    assert outcome["score"] == 0.0
    assert outcome["steps"] > 0
    assert len(outcome["fingerprint"]) == len(outcome["gold_fingerprint"]) == 32


def test_accuracy_has_its_wilson_interval_and_databases_come_worst_first(run, tmp_path):
    pairs = [pair(f"r{i}", COUNT, prediction="select 4") for i in range(8)]
    pairs += [pair(f"w{i}", "select price from item", "shop", prediction="") for i in range(2)]
    _, out, _, _ = run(write(tmp_path / "pairs.jsonl", pairs))
    # Wilson for 8 of 10, z = 1.96: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10).
    assert "80.0 %  (95 % interval 49.0 to 94.3; 8 of 10 judged, bag)" in out
    assert out.index("shop") < out.index("travel")


def test_a_gold_that_does_not_run_leaves_its_pair_unjudged_and_is_named(run, tmp_path):
    pairs = [pair("bad", "select nope from city", prediction=COUNT)]
    _, out, _, [outcome] = run(write(tmp_path / "pairs.jsonl", pairs))
    assert outcome["verdict"] == "unjudged"
    assert "no pair could be judged" in out
    assert "bad (travel): no such column: nope" in out


def test_without_answers_the_golds_alone_are_run(run, tmp_path):
    pairs = [pair("a", COUNT), pair("b", "select name from city where 0"), pair("c", "selec 1")]
    code, out, _, outcomes = run(write(tmp_path / "pairs.jsonl", pairs))
    assert code == 0
    assert [o["status"] for o in outcomes] == ["ok", "empty", "syntax_error"]
    assert "66.7 %  (2 of 3)" in out
    assert "1 gold does not run" in out


def test_the_step_budget_is_the_callers(run, tmp_path):
    endless = (
        "with recursive r(n) as (select 1 union all select n + 1 from r) select count(*) from r"
    )
    pairs = write(tmp_path / "pairs.jsonl", [pair("a", COUNT, prediction=endless)])
    _, _, _, [outcome] = run(pairs, "--steps", "20000")
    assert (outcome["verdict"], outcome["status"]) == ("wrong", "step_budget")


@pytest.mark.parametrize(
    ("compare", "verdict", "score"),
    [("bag", "wrong", 0.0), ("spider", "right", 1.0), ("bird", "wrong", 0.0)],
)
def test_the_comparison_is_the_callers(run, tmp_path, compare, verdict, score):
    swapped = pair(
        "a", "select name, city_id from city", prediction="select city_id, name from city"
    )
    _, out, _, [outcome] = run(write(tmp_path / "pairs.jsonl", [swapped]), "--compare", compare)
    assert (outcome["verdict"], outcome["score"]) == (verdict, score)
    assert f"judged, {compare})" in out


def test_soft_f1_shows_its_mean(run, tmp_path):
    # One of the gold's two columns: tp 1/2, fn 1/2, fp 0; precision 1, recall 1/2, F1 2/3.
    half = pair("a", "select 'x', 'y'", prediction="select 'x'")
    _, out, _, [outcome] = run(write(tmp_path / "pairs.jsonl", [half]), "--compare", "soft_f1")
    assert outcome["score"] == pytest.approx(2 / 3)
    assert "66.7" in out


def test_worker_processes_judge_the_same(run, tmp_path):
    pairs = [pair("a", COUNT, prediction="select 4"), pair("b", COUNT, prediction="selec")]
    code, _, err, outcomes = run(write(tmp_path / "p.jsonl", pairs), "--isolation", "process")
    assert (code, err) == (0, "")
    judged = [(o["verdict"], o["status"]) for o in outcomes]
    assert judged == [("right", "ok"), ("wrong", "syntax_error")]


def test_an_unstable_gold_leaves_its_pair_unjudged(run, tmp_path):
    tie = "select guest from visit order by length(guest) desc limit 1"  # Noor and Lima tie
    pairs = [pair("tie", tie, prediction=tie), pair("fine", COUNT, prediction=COUNT)]
    _, out, _, outcomes = run(write(tmp_path / "pairs.jsonl", pairs), "--stable")
    assert [(o["id"], o["verdict"], o["stable"]) for o in outcomes] == [
        ("tie", "unjudged", False),
        ("fine", "right", True),
    ]
    assert "gold is unstable" in outcomes[0]["reason"]
    assert "right 1 · wrong 0 · unjudged 1" in out
    assert "stable 1 · unstable 1 (ties 1)" in out


def test_a_family_catches_what_one_database_lets_pass(run, tmp_path, databases):
    families = tmp_path / "families"
    pairs = write(tmp_path / "pairs.jsonl", [pair("a", COUNT, prediction="select 4")])
    assert [o["verdict"] for o in run(pairs)[3]] == ["right"]
    families.mkdir()
    code, _, err, _ = run(pairs, "--families", families)
    assert code == 1
    assert "no family of 'travel'" in err
    build_families({"travel": databases / "travel.sqlite"}, {"travel": [COUNT]}, families)
    code, _, err, [outcome] = run(pairs, "--families", families)
    assert (code, err) == (0, "")
    assert outcome["verdict"] == "wrong"
    assert str(families) in outcome["judged_on"]


# -- file formats -------------------------------------------------------------------------------


def test_spider_s_own_files(run, tmp_path):
    golds = write(
        tmp_path / "dev.json",
        json.dumps([{"db_id": "travel", "query": COUNT}, {"db_id": "shop", "query": "select 1"}]),
    )
    answers = write(tmp_path / "predict.sql", "select 4\ttravel\nselect\t2\tshop\n")
    _, _, _, outcomes = run(golds, "--predictions", answers)
    assert [(o["id"], o["sql"], o["verdict"]) for o in outcomes] == [
        ("1", "select 4", "right"),
        ("2", "select\t2", "wrong"),
    ]
    lines = write(tmp_path / "dev_gold.sql", f"{COUNT}\ttravel\nselect 1\tshop\n\n")
    _, _, _, same = run(lines, "--predictions", answers)
    assert [o["verdict"] for o in same] == ["right", "wrong"]


def test_bird_s_own_files(run, tmp_path):
    golds = [
        {"question_id": 1471, "db_id": "travel", "SQL": COUNT},
        {"question_id": 1476, "db_id": "shop", "SQL": "select 1"},
    ]
    answers = {"0": "select 4\t----- bird -----\ttravel", "1": 0}
    pairs = write(tmp_path / "dev.json", json.dumps(golds))
    for text in (json.dumps(answers), json.dumps(answers, indent=4)):
        _, _, _, outcomes = run(pairs, "--predictions", write(tmp_path / "p.json", text))
        assert [(o["id"], o["verdict"]) for o in outcomes] == [("1471", "right"), ("1476", "wrong")]
    by_id = {"1476": "select 1\t----- bird -----\tshop", "1471": "select 5"}
    _, _, _, outcomes = run(pairs, "--predictions", write(tmp_path / "p.json", json.dumps(by_id)))
    assert [(o["id"], o["verdict"]) for o in outcomes] == [("1471", "wrong"), ("1476", "right")]


def test_plain_lines_where_an_empty_line_is_an_empty_answer(run, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair("a", COUNT), pair("b", COUNT)])
    _, _, _, outcomes = run(pairs, "--predictions", write(tmp_path / "p.txt", "\nselect 4\n\n"))
    assert [(o["sql"], o["verdict"]) for o in outcomes] == [("", "wrong"), ("select 4", "right")]


def test_predictions_with_ids_may_come_in_any_order_and_bring_samples(run, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair(name, COUNT) for name in "abc"])
    answers = [
        pair("c", "select 5", samples=["select 4", "select 6"]),
        pair("a", "select 4"),
        {"id": "b", "sql": "select 4;"},
    ]
    _, out, _, outcomes = run(pairs, "--predictions", write(tmp_path / "p.jsonl", answers))
    assert [(o["id"], o["answer"], o["verdict"]) for o in outcomes] == [
        ("a", 0, "right"),
        ("b", 0, "right"),
        ("c", 0, "wrong"),
        ("c", 1, "right"),
        ("c", 2, "wrong"),
    ]
    assert "66.7 %" in out  # the first answers
    assert "100.0 %  (3 of 3 pairs; 5 answers)" in out


def test_a_line_separator_inside_a_text_and_a_byte_order_mark_are_no_trouble(run, tmp_path):
    text = json.dumps(pair("a", "select '\u2028'", prediction="select '\u2028'"))
    raw = "\ufeff" + text.replace("\\u2028", "\u2028") + "\r\n"
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(raw.encode())
    code, _, _, outcomes = run(path)
    assert (code, outcomes[0]["verdict"]) == (0, "right")


def test_half_a_surrogate_in_an_answer_is_judged_and_written_as_it_came(run, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair("a", COUNT, prediction="select '\ud800'")])
    code, _, _, [outcome] = run(pairs)
    assert (code, outcome["verdict"]) == (0, "wrong")
    assert outcome["sql"] == "select '\ud800'"


def test_batches_do_not_change_the_result(run, tmp_path, monkeypatch):
    pairs = [pair(str(i), COUNT, prediction=f"select {i % 5}") for i in range(23)]
    path = write(tmp_path / "pairs.jsonl", pairs)
    _, _, _, whole = run(path)
    monkeypatch.setattr(command, "BATCH_PAIRS", 7)
    monkeypatch.setattr(command, "BATCH_CHARACTERS", 100)
    _, out, _, parts = run(path)
    assert [(o["id"], o["verdict"]) for o in parts] == [(o["id"], o["verdict"]) for o in whole]
    assert "right 4 · wrong 19" in out


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "predictions", "said"),
    [
        ('{"id": 1}\n', None, ("Line 1 of", "no database", "'database' or 'db_id'")),
        ('{"db_id": "travel", "query": "select 1"}\n{oops\n', None, ("Line 2 of", "not a JSON")),
        ("select 1\n", None, ("Line 1 of", "SQL<TAB>database")),
        ("", None, ("is empty",)),
        ("[]", None, ("is empty",)),
        ("[" * 100_000, None, ("nested too deeply",)),
        ('[{"db_id": "travel"}]', None, ("Record 1 of", "no gold SQL")),
        ("select 1\tnowhere\n", None, ("Pair '1' (line 1 of", "'nowhere'", "databases")),
        ("select 1\ttravel\nselect 2\ttravel\n", "select 1\n", ("no prediction", "line 2 of")),
        ("select 1\ttravel\n", "select 1\nselect 2\n", ("Line 2 of", "has no pair")),
        ("select 1\ttravel\n", "select 1\tshop\n", ("Line 1 of", "'shop'", "on 'travel'")),
        ("select 1\ttravel\n", '{"sql": 5}\n', ("line 1 of", "not a SQL text")),
        ("select 1\ttravel\n", '{"id": "x"}\n', ("Line 1 of", "has no SQL")),
        ('{"id": "a", "db_id": "travel", "sql": "select 1"}\n', '{"id": "b", "sql": "select 1"}\n',
         ("no prediction", "the id 'a'")),
        ('{"db_id": "travel", "sql": "select 1", "prediction": "select 1"}\n'
         '{"db_id": "travel", "sql": "select 1"}\n', None, ("Line 2 of", "no prediction")),
    ],
)  # fmt: skip
def test_a_wrong_file_is_an_error_that_names_the_place(run, tmp_path, pairs, predictions, said):
    options = []
    if predictions is not None:
        options = ["--predictions", write(tmp_path / "predictions.txt", predictions)]
    code, out, err, outcomes = run(write(tmp_path / "pairs.txt", pairs), *options)
    assert (code, out, outcomes) == (1, "", [])
    for part in said:
        assert part in err
    assert "Traceback" not in err


def test_an_id_given_twice_is_an_error(run, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair("a", COUNT), pair("b", COUNT)])
    for ids in ("aab", "bba", "aba"):
        answers = write(tmp_path / "p.jsonl", [pair(i, COUNT) for i in ids])
        code, _, err, _ = run(pairs, "--predictions", answers)
        assert code == 1, ids
        assert "twice" in err or "as line 1" in err


def test_bytes_that_are_not_utf8_are_named_by_their_line(run, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"select 1\ttravel\nselect '\xff'\ttravel\n")
    code, _, err, _ = run(path)
    assert code == 1
    assert f"Line 2 of {path} is not UTF-8" in err


def test_pairs_on_missing_databases_can_be_left_out_and_are_counted(run, tmp_path):
    pairs = write(tmp_path / "pairs.txt", "select 1\ttravel\nselect 1\tnowhere\nselect 1\tshop\n")
    answers = write(tmp_path / "p.txt", "select 1\nselect 1\nselect 2\n")
    code, out, _, outcomes = run(pairs, "--predictions", answers, "--skip-missing")
    assert code == 0
    assert [(o["id"], o["verdict"]) for o in outcomes] == [("1", "right"), ("3", "wrong")]
    assert "not being in" in out
    assert ": 1." in out


def test_usage_errors_have_code_2(run, capsys, tmp_path, databases):
    pairs = write(tmp_path / "pairs.txt", "select 1\ttravel\n")
    code, _, err, _ = run(pairs, "--compar", "bag")
    assert code == 2
    assert "Did you mean '--compare'?" in err
    assert run(pairs, "--threads", "-1")[0] == 2
    assert run(pairs, "--steps", "0")[0] == 2
    assert run(pairs, "--compare", "guess")[0] == 2
    arguments = [str(pairs), "--databases", str(databases), "--output", str(pairs)]
    assert command.main(arguments) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert pairs.read_text() == "select 1\ttravel\n"


def test_missing_folders_and_files_are_named(run, capsys, tmp_path, databases):
    code, _, err, _ = run(tmp_path / "nothing.jsonl")
    assert code == 1
    assert "Cannot read the pairs file" in err
    pairs = write(tmp_path / "pairs.txt", "select 1\ttravel\n")
    assert command.main([str(pairs), "--databases", str(tmp_path / "no")]) == 1
    assert "does not exist" in capsys.readouterr().err
    missing = str(tmp_path / "no" / "outcomes.jsonl")
    assert command.main([str(pairs), "--databases", str(databases), "--output", missing]) == 1
    assert "Cannot write the outcomes" in capsys.readouterr().err


def test_a_failure_keeps_the_outcomes_of_before(run, tmp_path, monkeypatch):
    pairs = write(tmp_path / "pairs.txt", "select 1\ttravel\n")
    run(pairs)
    before = (tmp_path / "outcomes.jsonl").read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "gold_record", interrupted)
    code, _, err, _ = run(pairs)
    assert code == 1
    assert "Stopped after" in err
    assert (tmp_path / "outcomes.jsonl").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_ctrl_c_ends_the_command_with_a_sentence(tmp_path, databases):
    endless = (
        "with recursive r(n) as (select 1 union all select n + 1 from r) select count(*) from r"
    )
    pairs = write(tmp_path / "pairs.jsonl", [pair("a", endless)])
    output = tmp_path / "outcomes.jsonl"
    arguments = [str(pairs), "--databases", str(databases), "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "spftcore.verify", *arguments, "--steps", str(10**15),
         "--seconds", "300"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    partial = output.with_name(output.name + ".partial")
    while process.poll() is None and not partial.exists():
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Stopped" in err
    assert "Traceback" not in err
    assert not partial.exists()
    assert not output.exists()


def test_lines_with_databases_are_known_though_the_first_one_has_no_file(run, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair("a", "select 1", "gone"), pair("b", COUNT)])
    answer = f"{COUNT} where city_id > 0"  # after which a database's name is no alias
    predictions = write(tmp_path / "answers.sql", f"select 1\tgone\n{answer}\ttravel\n")
    code, _, _, outcomes = run(pairs, "--predictions", predictions, "--skip-missing")
    assert code == 0
    assert [(o["id"], o["verdict"]) for o in outcomes] == [("b", "right")]
