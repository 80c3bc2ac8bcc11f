"""The page of an evaluation: complete, without anything from outside, safe against its content."""

import json
import re
import sqlite3
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from spftcore import evaluation_page
from spftcore.benchmarks import Benchmark, Question
from spftcore.errors import SpftError
from spftcore.evaluation_page import bar, explained, verdict, write_page
from spftcore.metrics.evaluation import Evaluation, Judging, evaluate
from spftcore.metrics.predictions import Answer
from spftcore.metrics.records import Scored
from spftcore.metrics.summary import summarise

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"
GOLD = "select name from city where country = 'Peru'"
ANSWERS = (  # (gold, answer)
    (GOLD, GOLD),
    (GOLD, "select country from city where country = 'Peru'"),
    (GOLD, "select name, country from city where country = 'Peru'"),
    (GOLD, "select nam from city"),
    ("select guest from visit order by guest", "select guest from visit"),
    ("select name from nowhere", "select name from city"),
)


@pytest.fixture
def judged(travel):
    """(evaluation, benchmark, judging) of ANSWERS."""
    questions = tuple(
        Question(f"q{i}", i + 1, "travel", f"Question {i}?", gold, f"hint {i}", "", f"record {i}")
        for i, (gold, _) in enumerate(ANSWERS)
    )
    path = travel / "travel.sqlite"
    files = {"travel": path}
    benchmark = Benchmark("pairs", travel / "questions.json", questions, True, files, None)
    judging = Judging(("bag",), threads=1)
    answers = [Answer(sql) for _, sql in ANSWERS]
    return explained(evaluate(benchmark, answers, judging), benchmark, judging), benchmark, judging


def with_records(judged, records):
    _, benchmark, judging = judged
    return Evaluation(tuple(records), summarise(records)), benchmark, judging


def page(judged, folder):
    evaluation, benchmark, judging = judged
    path = write_page(folder, evaluation, benchmark, judging, "predictions")
    return path.read_text(encoding="utf-8")


def examples(html):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text[1])


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def visible(html):
    """Text of the page without its styles, script and data, in single spaces."""
    html = re.sub(r"<(style|script)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_page_counts_what_was_found(judged, tmp_path):
    text = visible(page(judged, tmp_path))
    assert "6 questions, 5 of them scored: 1 right, 4 wrong; 1 excluded." in text
    assert "bag 5" in text
    assert "20.0 3.6–62.4" in text  # 1 of 5; Wilson's bounds
    assert "no such column 1 of 1" in text
    assert "extra columns 1 of 1" in text
    assert "1 gold does not run" in text
    assert "column 1 of 1" in text


def test_every_question_is_there_with_what_explains_it(judged, tmp_path):
    found = {one["id"]: one for one in examples(page(judged, tmp_path))}
    assert len(found) == len(ANSWERS)
    wrong = found["q1"]
    assert (wrong["verdict"], wrong["mistakes"]) == ("wrong", ["column"])
    assert (wrong["gold"], wrong["sql"], wrong["evidence"]) == (*ANSWERS[1], "hint 1")
    gold, answer = wrong["results"]
    assert gold == {"total": 1, "width": 1, "names": ["name"], "rows": [["Lima"]]}
    assert answer["rows"] == [["Peru"]]
    assert "no such column" in found["q3"]["why"]
    assert found["q3"]["results"][1] is None
    assert found["q5"]["verdict"] == "excluded"
    assert "results" not in found["q0"]


def test_the_page_needs_nothing_from_outside(judged, tmp_path):
    html = page(judged, tmp_path)
    for tag, attributes in Tags(html).tags:
        assert tag not in ("link", "img", "iframe", "base", "object")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "default-src 'none'" in html
    assert "url(" not in html


def test_text_of_models_and_databases_cannot_become_markup(judged, tmp_path):
    evaluation = judged[0]
    hostile = [
        replace(
            one,
            id=HOSTILE,
            question=HOSTILE,
            evidence=HOSTILE,
            message=HOSTILE,
            sql=f"select '{HOSTILE}'",
            hardness=HOSTILE,
            clauses=(HOSTILE,),
            mistakes=(HOSTILE,),
            unstable=HOSTILE,
        )
        for one in evaluation.scored[:4]
    ]
    hostile.append(replace(evaluation.scored[5], database=HOSTILE, excluded=HOSTILE))
    records = with_records(judged, hostile)
    html = write_page(tmp_path, *records, HOSTILE).read_text()
    tags = Tags(html).tags
    assert [attributes for tag, attributes in tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {"nonce": re.search(r"'nonce-(\w+)'", html)[1]},
    ]
    assert not [tag for tag, attributes in tags if tag == "img" or "onerror" in attributes]
    assert examples(html)[0]["question"] == HOSTILE
    # The script only ever writes text.
    script = html[html.rindex("<script") :]
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert unsafe not in script


def test_lone_surrogates_and_control_characters_are_written(judged, tmp_path):
    one = judged[0].scored[1]
    odd = replace(one, sql="select '\ud800\x00'", question="\udfff", database="\ud800")
    html = page(with_records(judged, [odd]), tmp_path)
    assert examples(html)[0]["sql"] == "select '\ud800\x00'"


def test_long_queries_wide_results_and_blobs_are_cut(tmp_path, judged):
    path = tmp_path / "wide.sqlite"
    with sqlite3.connect(path) as connection:
        names = ", ".join(f"c{i}" for i in range(30))
        connection.execute(f"create table t ({names})")
        row = [b"\x00\xff" * 500, None, "x" * 500, 1.5, *range(26)]
        connection.executemany(f"insert into t values ({', '.join('?' * 30)})", [row] * 2000)
    connection.close()
    _, benchmark, judging = judged
    benchmark = replace(benchmark, databases={"wide": path})
    one = Scored("1", "wide", "?", "select * from t -- all", "select 1" + " " * 9000)
    one = replace(one, status="ok", scores={"bag": 0.0})
    evaluation = Evaluation((one,), summarise([one]))
    (found,) = examples(write_page(tmp_path, evaluation, benchmark, judging, "x").read_text())
    gold = found["results"][0]
    assert (gold["total"], gold["width"]) == (2000, 30)
    assert len(gold["rows"]) == evaluation_page.ROWS
    assert len(gold["rows"][0]) == evaluation_page.COLUMNS
    assert gold["rows"][0][:4] == ["x'" + "00ff" * 14 + "0…", None, "x" * 59 + "…", "1.5"]
    assert len(found["sql"]) == 4000


def test_near_misses_and_unstable_golds_stand_apart(judged, tmp_path):
    one = judged[0].scored[1]
    near = replace(one, near_miss=True, scores={"bag": 1.0, "ts": 0.0}, mistakes=("condition",))
    tied = replace(one, id="tied", unstable="ties", scores={"bag": 1.0, "ts": 1.0}, mistakes=())
    text = visible(page(with_records(judged, [one, near, tied]), tmp_path))
    assert "1 right, 1 wrong, 1 near miss." in text
    assert "1 answer gives the gold's result on the database itself" in text
    assert "condition 1 of 1" in text
    assert "The results of 1 golds hang on more than the data: ties (1)" in text
    assert "with them 3" in text
    assert "without them 2" in text


@pytest.mark.parametrize("records", [[], ["excluded"]])
def test_an_evaluation_without_a_score_has_a_page(judged, tmp_path, records):
    one = replace(judged[0].scored[5])
    text = visible(page(with_records(judged, [one] * len(records)), tmp_path))
    assert "No answer is wrong." in text


def test_verdicts_of_the_page():
    one = Scored("1", "d", "?", "g", "s", scores={"bag": 1.0})
    assert verdict(one, "bag") == "right"
    assert verdict(replace(one, scores={"bag": 0.0}), "bag") == "wrong"
    assert verdict(one, "spider") == "unjudged"
    assert verdict(replace(one, near_miss=True), "bag") == "near miss"
    assert verdict(replace(one, near_miss=True, excluded="x"), "bag") == "excluded"
    # Its family is compared as bags: what is wrong by the page's own metric is no near miss.
    tied = replace(one, near_miss=True, scores={"spider": 0.0, "bag": 1.0, "ts": 0.0})
    assert verdict(tied, "spider") == "wrong"


def test_bars_stay_within_their_track():
    assert bar("ves", [1.3, 1.4]).width == 100
    assert bar("ves", []).width == 0
    assert bar("bag", [1.0, 0.0]).width == 50


def test_without_right_and_wrong_there_is_no_page(judged, tmp_path):
    evaluation, benchmark, judging = judged
    only_f1 = replace(judging, metrics=("soft_f1",))
    assert write_page(tmp_path, evaluation, benchmark, only_f1, "x") is None
    assert explained(evaluation, benchmark, only_f1) == evaluation


def test_a_page_that_cannot_be_written_is_one_message(judged, tmp_path):
    (tmp_path / "report.html.partial").mkdir()
    with pytest.raises(SpftError, match="Cannot write the page"):
        page(judged, tmp_path)
