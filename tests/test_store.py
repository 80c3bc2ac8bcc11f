"""The run store: a stage is written whole or not at all."""

import re
import sqlite3
from pathlib import Path

import pytest

from spftcore.errors import SpftError
from spftcore.pairs import Pair
from spftcore.store import SCHEMA_VERSION, Answer, Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run.sqlite")
    yield store
    store.close()


def pair(identifier, **changes):
    values = {"database": "shop", "question": "How many?", "sql": "select 1", "split": "train"}
    return Pair(identifier, **(values | changes))


def test_a_stage_is_complete_with_its_rows_and_result(store):
    stored = pair("p1", source="seed", template="t1", checks={"round trip": True}, evidence="hint")
    with store.stage("prepare") as stage:
        stage.pairs([stored])
        stage.database("shop", "/data/shop.sqlite", 3, 120)
        stage.excluded(pair("p2", split="test"), "gold does not run", "no such table: x")
        stage.template("t1", "select {n}", 0.5, {"p1": 1})
        stage.rejections("template", {"set operation": 2})
        stage.result = {"seeds": 1}
    assert store.finished() == {"prepare"}
    assert store.result("prepare") == {"seeds": 1}
    assert store.pairs(stage="prepare", split="train") == [stored]
    assert store.templates("prepare") == [
        {"text": "select {n}", "weight": 0.5, "sources": {"p1": 1}}
    ]
    assert store.query("select id, tables, rows from databases") == [("shop", 3, 120)]
    excluded = store.query("select id, database, split, cause, message from excluded_pairs")
    assert excluded == [("p2", "shop", "test", "gold does not run", "no such table: x")]
    assert store.query("select * from rejections") == [("prepare", "template", "set operation", 2)]


def test_nothing_is_visible_while_a_stage_is_at_work(store, tmp_path):
    other = Store(tmp_path / "run.sqlite")
    with store.stage("base") as stage:
        stage.metric(1, "loss", 2.5)
        assert other.finished() == set()
        assert other.metric_series("base", "loss") == []
    assert other.finished() == {"base"}
    assert other.metric_series("base", "loss") == [(1, 2.5)]
    other.close()


def run_and_raise(store, name, error):
    with store.stage(name) as stage:
        stage.pairs([pair("p1")])
        stage.metric(1, "loss", 9.0)
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_stage_that_raises_leaves_nothing(store, error):
    with pytest.raises(error):
        run_and_raise(store, "prepare", error)
    assert store.finished() == set()
    assert store.pairs() == []
    assert store.metric_series("prepare", "loss") == []


def test_a_stage_whose_rows_cannot_be_written_leaves_nothing(store):
    with pytest.raises(sqlite3.IntegrityError), store.stage("prepare") as stage:
        stage.pairs([pair("p1"), pair("p1")])
    assert store.finished() == set()
    assert store.pairs() == []
    with store.stage("prepare") as stage:  # the failed transaction is closed
        stage.pairs([pair("p1")])
    assert [p.id for p in store.pairs()] == ["p1"]


def test_a_failed_repetition_keeps_the_earlier_rows(store):
    with store.stage("base") as stage:
        stage.metric(1, "loss", 3.0)
    with pytest.raises(RuntimeError):
        run_and_raise(store, "base", RuntimeError)
    assert store.metric_series("base", "loss") == [(1, 3.0)]


def test_a_repeated_stage_replaces_its_rows_and_no_others(store):
    for name in ("prepare", "vbi_1_synthesize"):
        with store.stage(name) as stage:
            stage.pairs([pair(f"{name}-{i}") for i in range(3)])
            stage.database(name, "shop.sqlite", 1, 1)
            stage.excluded(pair(f"{name}-x"), "unknown database", "")
    with store.stage("vbi_1_synthesize") as stage:
        stage.pairs([pair("vbi_1_synthesize-0")])
        stage.result = {"repeated": True}
    assert len(store.pairs(stage="prepare")) == 3
    assert [p.id for p in store.pairs(stage="vbi_1_synthesize")] == ["vbi_1_synthesize-0"]
    assert store.query("select stage from databases") == [("prepare",)]
    assert store.query("select stage from excluded_pairs") == [("prepare",)]
    assert store.result("vbi_1_synthesize") == {"repeated": True}


def test_answers_are_kept_by_stage_and_purpose(store):
    answer = Answer("p1", "vbi_1", "select 1", "ok", "right")
    other = Answer("p1", "vbi_1", "select", "syntax_error", "wrong", "incomplete input")
    with store.stage("vbi_1_feedback") as stage:
        stage.answers("feedback", [answer])
        stage.answers("ranking", [other])
    assert store.answers("vbi_1_feedback", "feedback") == {"p1": answer}
    assert store.answers("vbi_1_feedback", "ranking") == {"p1": other}
    assert store.answers("vbi_2_feedback", "ranking") == {}


def test_candidates_know_their_parent_and_ranking(store):
    with store.stage("vbi_2_feedback") as stage:
        stage.candidate("vbi_2", "vbi_1", "checkpoints/vbi_2", 3, 4)
        stage.candidate("vbi_3", None, "checkpoints/vbi_3", 0, 0)
    first, second = store.candidates()
    assert (first.id, first.parent, first.ranking_accuracy) == ("vbi_2", "vbi_1", 0.75)
    assert (second.parent, second.ranking_accuracy) == (None, 0.0)


def test_stages_are_timed_in_the_order_of_finishing(store):
    for name in ("prepare", "base", "a_later_one"):
        with store.stage(name):
            pass
    assert list(store.seconds()) == ["prepare", "base", "a_later_one"]
    assert all(seconds >= 0 for seconds in store.seconds().values())


def test_the_result_of_an_unfinished_stage_is_a_key_error(store):
    with pytest.raises(KeyError, match="export"):
        store.result("export")


def test_another_schema_version_is_refused_with_the_remedy(store, tmp_path):
    connection = sqlite3.connect(tmp_path / "run.sqlite")
    connection.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    expected = f"schema version {SCHEMA_VERSION + 1}.*writes {SCHEMA_VERSION}.*another run.name"
    with pytest.raises(SpftError, match=expected):
        Store(tmp_path / "run.sqlite")


def test_a_file_that_is_no_store_is_named(tmp_path):
    path = tmp_path / "run.sqlite"
    path.write_text("this is not a database, it is a long enough text " * 20)
    with pytest.raises(SpftError, match=r"Cannot open the run store .*run.sqlite"):
        Store(path)


def test_a_store_that_cannot_be_created_is_named(tmp_path):
    with pytest.raises(SpftError, match=r"Cannot open the run store .*missing"):
        Store(tmp_path / "missing" / "run.sqlite")


def test_the_documentation_names_every_table_and_column(store):
    text = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")
    tables = text[text.index("## Tables") :]
    sections = dict(re.findall(r"\n\*\*(\w+)\*\*:(.*?)(?=\n\*\*|\n## )", tables, re.DOTALL))
    names = [name for (name,) in store.query("select name from sqlite_schema where type = 'table'")]
    assert sorted(sections) == sorted(names)
    for name, section in sections.items():
        for (column,) in store.query("select name from pragma_table_info(?)", (name,)):
            assert column == "stage" or f"`{column}`" in section, f"{name}.{column}"


def test_the_documented_queries_run(store):
    text = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")
    for query in text.partition("```sql")[2].partition("```")[0].split(";")[:-1]:
        store.query(query)
