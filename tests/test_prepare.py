"""What a run begins with: which pairs train, which are kept for the test, what is drawn from."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spftcore.config import resolve
from spftcore.errors import SpftError
from spftcore.pairs import Pair
from spftcore.stages import prepare as prepare_stage
from spftcore.stages.context import RunContext
from spftcore.stages.prepare import prepare
from spftcore.stages.vbi import database_weights
from spftcore.store import Store


@pytest.fixture
def databases(tmp_path: Path) -> Path:
    folder = tmp_path / "databases"
    folder.mkdir()
    for name in ("one", "two"):
        connection = sqlite3.connect(folder / f"{name}.sqlite")
        connection.execute("create table person (id integer primary key, name text, age int)")
        rows = [(i, f"n{i}", 20 + i) for i in range(30)]
        connection.executemany("insert into person values (?, ?, ?)", rows)
        connection.commit()
        connection.close()
    return folder


def pair(number: int, database: str = "one", **more: Any) -> Pair:
    sql = f"select name from person where age > {20 + number}"
    question = f"Who is older than {20 + number}?"
    return replace(Pair(f"p{number}", database, question, sql, split="train"), **more)


class Prepared:
    """The stage `prepare` on given pairs, without a run."""

    def __init__(self, tmp_path: Path, databases: Path) -> None:
        self.folder, self.databases = tmp_path / "run", databases
        self.folder.mkdir()
        self.store = Store(self.folder / "run.sqlite")

    def run(
        self,
        monkeypatch: pytest.MonkeyPatch,
        seeds: list[Pair],
        held_out: list[Pair],
        pairs_file: str | None = "pairs.jsonl",
    ) -> RunContext:
        data = {"databases": str(self.databases), "pairs": pairs_file}
        config = resolve([("test", {"data": data, "run": {"name": "r"}, "model": {}})])
        monkeypatch.setattr(prepare_stage, "read_inputs", lambda _: (seeds, held_out))
        context = RunContext(config, self.folder, self.store, self.databases, lambda *_: None)
        try:
            with self.store.stage("prepare") as stage:
                prepare(context, stage)
        finally:
            context.close()
        return context

    def ids(self, split: str) -> set[str]:
        return {p.id for p in self.store.pairs(stage="prepare", split=split)}


@pytest.fixture
def prepared(tmp_path: Path, databases: Path) -> Iterator[Prepared]:
    made = Prepared(tmp_path, databases)
    yield made
    made.store.close()


def test_what_an_earlier_run_learned_is_never_split_off_as_a_test(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [pair(i, id=f"old:{i}", checks={"run": "old"}) for i in range(15)]
    # Of its own pairs the first five ask what the earlier run has learned.
    own = [pair(i, id=f"new:{i}", question=f"Older than {20 + i}, who?") for i in range(25)]
    prepared.run(monkeypatch, [*own, *taken], [])
    tested = prepared.ids("test")
    assert tested
    assert tested <= {f"new:{i}" for i in range(15, 25)}


def test_a_test_question_that_the_earlier_run_learned_is_left_out_and_counted(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [pair(i, id=f"old:{i}", checks={"run": "old"}) for i in range(5)]
    tests = [pair(i, id=f"t:{i}", split="test") for i in (3, 7)]
    prepared.run(monkeypatch, taken, tests, None)
    assert prepared.ids("test") == {"t:7"}
    assert prepared.store.result("prepare")["left out (trained on before)"] == 1


def test_without_pairs_a_test_gold_that_fails_is_left_out_and_the_library_serves(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = [pair(1, split="test"), pair(2, id="bad", sql="select 1 from dogs", split="test")]
    context = prepared.run(monkeypatch, [], tests, None)
    assert prepared.ids("test") == {"p1"}
    assert prepared.store.result("prepare")["templates"] > 100
    assert database_weights(context) == {"two": 1.0}


def test_pairs_of_which_none_can_be_used_are_an_error_with_the_causes(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpftError, match="unknown database: 2, for example p1"):
        prepared.run(monkeypatch, [pair(i, "gone") for i in (1, 2)], [pair(3, split="test")])


def test_an_empty_query_is_left_out_and_counted(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared.run(monkeypatch, [pair(1), pair(2, sql="")], [pair(9, split="test")])
    assert prepared.ids("train") == {"p1"}
    assert prepared.store.result("prepare")["left out (gold does not run)"] == 1


def test_databases_without_seeds_are_drawn_from_unless_they_are_tested(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [pair(i) for i in range(6)]
    context = prepared.run(monkeypatch, seeds, [pair(9, split="test")])
    assert database_weights(context) == {"one": 6, "two": 6.0}
    context = prepared.run(monkeypatch, seeds, [pair(9, "two", split="test")])
    assert database_weights(context) == {"one": 6}


def test_where_everything_is_tested_that_is_drawn_from(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = [pair(1, split="test"), pair(2, "two", split="test")]
    context = prepared.run(monkeypatch, [], tests, None)
    assert database_weights(context) == {"one": 1.0, "two": 1.0}


def test_the_demos_pairs_have_no_mark_of_an_earlier_run() -> None:
    from importlib.resources import files

    text = (files("spftcore.demo") / "seeds.jsonl").read_text(encoding="utf-8")
    assert not any("run" in json.loads(line).get("checks", {}) for line in text.splitlines())
