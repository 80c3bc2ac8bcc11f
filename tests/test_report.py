"""The table, the sentence and the page of a run, from a small hand-made run store."""

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from spftcore import report, report_data
from spftcore.errors import SpftError
from spftcore.metrics import accuracy
from spftcore.pairs import Pair
from spftcore.report import (
    SystemResult,
    print_results,
    result_table,
    verdict_sentence,
    write_report,
)
from spftcore.store import Answer, Store

# Answers to the 12 test questions: 1 right, 0 wrong result, s syntax error, t out of time.
TEST = {
    "base": "1111ss00000t",
    "sft": "111000000000",
    "spin": "100000000000",
    "vbi": "111111111100",
    "self_play": "111111111110",
}
DEV = {"sft": "10", "vbi": "11"}
ANSWERS = {
    "1": ("ok", "right", "same result"),
    "0": ("ok", "wrong", "number of rows differs: 3, gold 4"),
    "s": ("syntax_error", "wrong", 'near "form": syntax error'),
    "t": ("time_budget", "unjudged", "stopped by the clock"),
}
HOSTILE = '<script>alert("1")</script><img src="https://example.org/x.png" onerror="alert(2)">'


def questions(split, count):
    return [
        Pair(f"{split}-{i:02d}", ("shop", "zoo")[i % 2], f"Question {i}?", "select 1", split=split)
        for i in range(count)
    ]


def evaluate(store, system, test="", dev=""):
    with store.stage(f"evaluate_{system}") as stage:
        for split, marks in (("test", test), ("dev", dev)):
            answers = [
                Answer(f"{split}-{i:02d}", system, f"select {mark}", *ANSWERS[mark])
                for i, mark in enumerate(marks)
            ]
            stage.answers(split, answers)
        stage.result = {"candidate": system}


def prepare(store, pairs):
    with store.stage("prepare") as stage:
        stage.pairs(pairs)
        stage.database("shop", "shop.sqlite", 4, 1200)
        stage.excluded(Pair("test-99", "moon", "?", "?", split="test"), "unknown database", HOSTILE)
        stage.result = {"seeds": 0, "templates": 7, "shared with evaluation": 0}


def self_play(store):
    with store.stage("vbi_1_synthesize") as stage:
        split = ["train", "train", "feedback", "ranking"]
        stage.pairs(
            Pair(
                f"s{i}",
                "shop",
                f"Synthesized {i}?",
                "select 2",
                split=name,
                checks={"writer": "rules" if i else "model"},
            )
            for i, name in enumerate(split)
        )
        stage.rejections("sql", {"empty result": 5})
        stage.rejections("question", {"too short": 2})
        checks = {"model": {"length": [3, 4]}, "rules": {"length": [3, 3], "new": [2, 3]}}
        stage.result = {"queries": 6, "question checks": checks}
    with store.stage("vbi_1_feedback") as stage:
        stage.candidate("vbi_1", None, "checkpoints/vbi_1", 5, 10)
        stage.result = {"ranking accuracy": 0.5, "feedback accuracy": 0.25}
    with store.stage("self_play_1_answers") as stage:
        stage.result = {"main": "vbi_2", "opponent": "vbi_1", "answers": "self_play_1_answers"}
        stage.result |= {"right": 30, "wrong": 10, "unjudged": 2}
    with store.stage("self_play_1_train") as stage:
        for step, margin in ((1, -0.5), (2, 0.25), (3, 1.5)):
            stage.metric(step, "loss", 1.0 / step)
            stage.metric(step, "margin", margin)
        stage.candidate("self_play_1", "vbi_1", "checkpoints/self_play_1", 6, 10)
        stage.result = {"pairs": 40, "ranking accuracy": 0.6}
    with store.stage("export") as stage:
        stage.result = {"candidate": "self_play_1"}


@pytest.fixture
def directory(tmp_path):
    """A finished run."""
    directory = tmp_path / "small run"
    directory.mkdir()
    (directory / "config.yaml").write_text("run: {name: small}\n")
    store = Store(directory / "run.sqlite")
    prepare(store, questions("test", 12) + questions("dev", 2))
    self_play(store)
    for system, test in TEST.items():
        evaluate(store, system, test, DEV.get(system, ""))
    store.close()
    return directory


@pytest.fixture
def store(directory):
    store = Store(directory / "run.sqlite")
    yield store
    store.close()


# -- the table ----------------------------------------------------------------------------------


def test_each_round_says_which_share_of_questions_passes_each_check(store, directory):
    model, rules = report_data.rounds(store)[0]["writers"]
    assert model == {"writer": "model", "kept": 1, "shares": [("length", 0.75, 4)]}
    assert rules["kept"] == 3
    assert rules["shares"][1] == ("new", 2 / 3, 3)
    page = write_report(directory).read_text(encoding="utf-8")
    assert "length 75.0\u00a0%" in page
    assert "new 66.7\u00a0%" in page


def test_the_table_is_on_the_test_questions_in_the_fixed_order(store):
    results = result_table(store)
    assert [r.name for r in results] == ["base", "SFT", "SPIN", "VBI-FT", "SPFT-SQL"]
    assert {r.split for r in results} == {"test"}


def test_accuracy_counts_right_answers_with_their_wilson_interval(store):
    vbi = {r.system: r for r in result_table(store)}["vbi"].accuracy
    assert (vbi.right, vbi.total) == (10, 12)
    # Wilson by hand: centre (10/12 + z²/24) / (1 + z²/12) = 0.75250, half width 0.20053.
    assert vbi.low == pytest.approx(0.55197, abs=2e-5)
    assert vbi.high == pytest.approx(0.95303, abs=2e-5)


def test_systems_are_tested_against_sft_on_the_same_questions(store):
    tests = {r.system: r.against_sft for r in result_table(store)}
    assert tests["sft"] is None
    assert (tests["vbi"].gained, tests["vbi"].lost) == (7, 0)
    assert tests["vbi"].p == pytest.approx(2 / 2**7)
    assert (tests["spin"].gained, tests["spin"].lost) == (0, 2)
    assert tests["spin"].p == pytest.approx(0.5)


def test_unjudged_answers_are_neither_right_nor_wrong(store):
    base = result_table(store)[0]
    assert base.unjudged == 1
    assert (base.accuracy.right, base.accuracy.total) == (4, 11)
    assert "test-11" not in base.verdicts
    assert (base.against_sft.gained, base.against_sft.lost) == (1, 0)


def test_sql_that_runs_is_a_share_of_all_answers(store):
    results = result_table(store)
    assert results[0].valid == pytest.approx(9 / 12)  # two syntax errors, one stopped
    assert results[1].valid == 1.0


def test_without_test_questions_the_table_is_on_dev(tmp_path):
    store = Store(tmp_path / "run.sqlite")
    prepare(store, questions("dev", 2))
    evaluate(store, "sft", dev="10")
    (sft,) = result_table(store)
    store.close()
    assert (sft.split, sft.accuracy.right, sft.accuracy.total) == ("dev", 1, 2)


def test_a_run_without_sft_is_compared_with_nothing(tmp_path):
    store = Store(tmp_path / "run.sqlite")
    prepare(store, questions("test", 12))
    evaluate(store, "vbi", TEST["vbi"])
    (vbi,) = result_table(store)
    store.close()
    assert vbi.against_sft is None


# -- the sentence -------------------------------------------------------------------------------


def result(system, marks):
    verdicts = {str(i): mark == "1" for i, mark in enumerate(marks) if mark in "01"}
    right = accuracy(list(verdicts.values()))
    return SystemResult(system, "test", right, None, marks.count("t"), 1.0, verdicts)


def test_the_sentence_says_what_is_real_and_what_is_noise(store):
    assert verdict_sentence(result_table(store)) == (
        "VBI-FT is above SFT by 58.3 points (p = 0.016); "
        "SPFT-SQL is above SFT by 66.7 points (p = 0.008); "
        "SPFT-SQL and VBI-FT differ by 8.3 points, within noise (p = 1.00); "
        "SPIN and SFT differ by 16.7 points, within noise (p = 0.50)."
    )


def test_a_loss_is_called_a_loss():
    worse = [result("sft", "1" * 20), result("spin", "1" * 8 + "0" * 12)]
    assert verdict_sentence(worse) == "SPIN is below SFT by 60.0 points (p < 0.001)."


def test_five_differences_in_one_direction_are_still_noise():
    # p = 2 / 2^5 = 0.0625; six would give 0.031.
    pair = [result("sft", "0" * 100), result("vbi", "1" * 5 + "0" * 95)]
    assert verdict_sentence(pair) == (
        "VBI-FT and SFT differ by 5.0 points, within noise (p = 0.062)."
    )
    pair[1] = result("vbi", "1" * 6 + "0" * 94)
    assert verdict_sentence(pair) == "VBI-FT is above SFT by 6.0 points (p = 0.031)."


def test_a_difference_on_fewer_questions_than_the_table_says_so():
    pair = [result("sft", "0011"), result("vbi", "01t1")]
    assert verdict_sentence(pair) == (
        "VBI-FT and SFT differ by 33.3 points on the 3 questions judged for both, "
        "within noise (p = 1.00)."
    )


def test_what_cannot_be_compared_yet_is_said():
    assert verdict_sentence([]) == "No system has been evaluated yet."
    assert verdict_sentence([result("base", "10"), result("vbi", "10")]) == (
        "No two of the systems to compare have been evaluated yet (only base, VBI-FT)."
    )


# -- the terminal -------------------------------------------------------------------------------


def printed(store):
    text = io.StringIO()
    print_results(store, Console(file=text, width=80))
    return text.getvalue()


def test_the_terminal_shows_table_sentence_and_time_in_80_columns(store):
    lines = printed(store).splitlines()
    (row,) = [line.split() for line in lines if line.strip().startswith("VBI-FT ") and "/" in line]
    assert row == ["VBI-FT", "10/12", "83.3", "%", "55.2–95.3", "0.016", "100.0", "%", "0"]
    text = " ".join(" ".join(lines).split())
    assert "SPFT-SQL and VBI-FT differ by 8.3 points, within noise (p = 1.00)" in text
    assert re.search(r"Time: preparation \d+ s, .* \d+ s in total\.", text)


def test_every_stage_counts_to_one_part_of_the_time():
    seconds = {"prepare": 1.0, "base": 2.0, "sql_to_text_1": 3.0, "vbi_1_synthesize": 4.0}
    seconds |= {"vbi_1_train": 5.0, "vbi_10_feedback": 6.0, "self_play_1_answers": 7.0}
    seconds |= {"sft": 8.0, "spin_2_train": 9.0, "evaluate_self_play": 10.0, "export": 11.0}
    assert report_data.time_by_part(seconds) == {
        "preparation": 1.0,
        "base": 2.0,
        "SQL-to-Text": 3.0,
        "synthesis": 4.0,
        "VBI-FT": 11.0,
        "self-play": 7.0,
        "baselines": 17.0,
        "evaluation": 10.0,
        "export": 11.0,
    }


# -- the page -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """Elements and text of a page; fails on tags that are not closed in order."""

    VOID = ("meta", "input", "path", "polyline")

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data + " "

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page(directory):
    return Page(write_report(directory).read_text(encoding="utf-8"))


def test_the_page_shows_every_part_of_the_run(directory):
    text = page(directory).text
    for part in (
        "small run",
        "best model: self_play_1",
        "run: {name: small}",
        "VBI-FT is above SFT by 58.3 points (p = 0.016)",
        "VBI-FT and SFT differ by 50.0 points, within noise (p = 1.00)",  # dev
        "└ self_play_1 from vbi_1 60.0 % 6/10",
        "6 queries, 4 pairs kept (feedback 1, ranking 1, train 2)",
        "answers 25.0 % of the feedback set and 50.0 % of the ranking set",
        "question too short 2",
        "SPFT-SQL 1 vbi_2 vbi_1 30 10 2 75.0 % 40 -0.50 → +1.50 60.0 %",
        "syntax error 2 0 0 0 0",
        "wrong result: number of rows differs 5 9 11 2 1",
        "unjudged: over the time limit 1 0 0 0 0",
        "zoo 6 40.0 % 16.7 % 0.0 % 83.3 % 83.3 %",
        "1 test pair: unknown database",
    ):
        assert part in text


def test_the_page_needs_nothing_from_outside(directory):
    parsed = page(directory)
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "img", "object", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    style = (directory / "report.html").read_text()
    assert "@import" not in style
    assert "url(" not in style


def test_text_of_users_and_models_is_escaped_everywhere(tmp_path):
    directory = tmp_path / "<b>run"
    directory.mkdir()
    (directory / "config.yaml").write_text(f"# {HOSTILE}")
    store = Store(directory / "run.sqlite")
    pair = Pair("test-00", HOSTILE, HOSTILE, HOSTILE, HOSTILE, "test", HOSTILE)
    prepare(store, [pair])
    with store.stage("vbi_1_synthesize") as stage:
        stage.pairs([Pair("s1", HOSTILE, HOSTILE, HOSTILE, split=HOSTILE)])
        stage.rejections("sql", {HOSTILE: 1})
        stage.rejections(HOSTILE, {HOSTILE: 1})
    with store.stage("evaluate_sft") as stage:
        stage.answers("test", [Answer("test-00", HOSTILE, HOSTILE, HOSTILE, "wrong", HOSTILE)])
    with store.stage("vbi_1_feedback") as stage:
        stage.candidate(HOSTILE, None, HOSTILE, 1, 2)
    with store.stage("self_play_1_answers") as stage:
        stage.result = {"main": HOSTILE, "opponent": HOSTILE}
    store.close()
    parsed = page(directory)
    assert len(parsed.named("script")) == 1
    assert parsed.named("script")[0]["nonce"]
    assert parsed.named("img") == []
    assert parsed.text.count(HOSTILE) > 10
    assert not any("onerror" in attributes for _, attributes in parsed.elements)


def test_examples_can_be_filtered_by_system_database_and_verdict(directory):
    articles = page(directory).named("article")
    assert len(articles) == 12
    assert articles[11]["data-database"] == "zoo"
    verdicts = dict(v.split(":") for v in articles[11]["data-verdicts"].split())
    assert verdicts == {
        "base": "unjudged",
        "sft": "wrong",
        "spin": "wrong",
        "vbi": "wrong",
        "self_play": "wrong",
    }


def test_equal_answers_are_shown_once(store):
    answers = report.system_answers(store, "test")
    first = report_data.examples(store, "test", answers)[0]
    ((answer, systems),) = first["answers"]
    assert answer == ("select 1", "right", "ran", "same result")
    assert systems == list(TEST)


def test_of_many_questions_a_spread_is_shown(tmp_path):
    store = Store(tmp_path / "run.sqlite")
    with store.stage("prepare") as stage:
        stage.pairs(Pair(f"{i:04d}", "shop", "?", "select 1", split="test") for i in range(900))
    answers = {
        "sft": {f"{i:04d}": Answer(f"{i:04d}", "sft", "", "ok", "right") for i in range(900)}
    }
    shown = [e["pair"].id for e in report_data.examples(store, "test", answers)]
    store.close()
    assert len(shown) == report_data.EXAMPLES
    assert shown[:3] == ["0000", "0003", "0006"]


def test_an_unfinished_run_has_a_report(tmp_path):
    store = Store(tmp_path / "run.sqlite")
    parsed = page(tmp_path)
    assert "not finished" in parsed.text
    assert "No system has been evaluated yet." in parsed.text
    prepare(store, questions("test", 12))
    evaluate(store, "base", TEST["base"])
    parsed = page(tmp_path)
    assert "No two of the systems to compare have been evaluated yet (only base)." in parsed.text
    assert "base 4/11" in " ".join(printed(store).split())
    store.close()


def test_a_repeated_dpo_iteration_shows_the_answers_it_reuses(store):
    with store.stage("dpo_1_answers") as stage:
        stage.result = {"main": "dpo_0", "opponent": "vbi_2", "answers": "dpo_1_answers"}
        stage.result |= {"right": 1, "wrong": 3, "unjudged": 0}
    with store.stage("dpo_2_answers") as stage:
        stage.result = {"main": "dpo_1", "opponent": "vbi_2", "answers": "dpo_1_answers"}
    by_name = {(p["system"], p["number"]): p for p in report_data.plays(store)}
    assert by_name["dpo", 2]["share"] == 0.25


def test_a_curve_skips_values_that_are_not_finite(store):
    with store.stage("base") as stage:
        for step, value in ((1, 4.0), (2, float("inf")), (3, 2.0)):
            stage.metric(step, "loss", value)
    (base,) = [c for c in report_data.curves(store) if c["stage"] == "base"]
    assert base["panels"][0]["raw"] == "0.0,0.0 100.0,100.0"


# -- the command --------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_rewrites_the_report(directory, capsys):
    (directory / "report.html").write_text("old")
    assert report.main([str(directory)]) == 0
    out = capsys.readouterr().out
    assert "VBI-FT" in out
    assert str(directory / "report.html") in out.replace("\n", "")
    assert (directory / "report.html").read_text().startswith("<!doctype html>")
    assert not (directory / "report.partial").exists()


def test_a_folder_that_is_no_run_is_one_message(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"{tmp_path} is no run: it holds no run.sqlite. Give the folder that "
        "`python -m spftcore.train` wrote, for example runs/demo.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_a_usage_error(capsys):
    assert report.main([]) == 2
    assert "directory" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_leaves_the_old_one(directory):
    (directory / "report.html").write_text("old")
    (directory / "report.partial").mkdir()
    with pytest.raises(SpftError, match="Cannot write the report"):
        write_report(directory)
    assert (directory / "report.html").read_text() == "old"


def test_a_finished_run_without_questions_tells_the_ranking(tmp_path):
    store = Store(tmp_path / "run.sqlite")
    with store.stage("vbi_1_feedback") as stage:
        stage.candidate("vbi_1", None, "checkpoints/vbi_1", 9, 20)
    with store.stage("export"):
        pass
    text = " ".join(printed(store).replace("\u00a0", " ").split())
    store.close()
    assert "no questions to evaluate on" in text
    assert "vbi_1 45.0 %" in text
