"""`python -m spftcore.synthesize`: pairs of any databases, stopped, resumed, excluded."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from spftcore import synthesize
from spftcore.databases import Catalogue
from spftcore.metrics.hardness import hardness
from spftcore.pairs import question_key, read_pairs
from spftcore.synthesis import canonical
from spftcore.synthesize import main


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two databases without a single pair."""
    folder = tmp_path_factory.mktemp("databases")
    shop = sqlite3.connect(folder / "shop.sqlite")
    shop.executescript(
        "create table customer (id integer primary key, name text, city text, age int);"
        "create table orders (id integer primary key, customer_id int references customer (id),"
        " amount real, placed text);"
    )
    cities = ["Lima", "Oslo", "Bonn", "Turin"]
    shop.executemany(
        "insert into customer values (?, ?, ?, ?)",
        [(i, f"Person {i}", cities[i % 4], 20 + i * 7 % 50) for i in range(1, 41)],
    )
    shop.executemany(
        "insert into orders values (?, ?, ?, ?)",
        [(i, i * 7 % 40 + 1, i * 3.5 % 97, f"2024-{i % 12 + 1:02d}-11") for i in range(1, 121)],
    )
    shop.commit()
    zoo = sqlite3.connect(folder / "zoo.sqlite")
    zoo.execute('create table "animal" (id integer primary key, "common name" text, weight real)')
    zoo.executemany(
        "insert into animal values (?, ?, ?)", [(i, f"beast {i}", i * 1.7) for i in range(1, 31)]
    )
    zoo.commit()
    return folder


def written(output: Path, *arguments: object) -> list[dict[str, Any]]:
    assert main([*map(str, arguments), "--output", str(output)]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_pairs_are_written_run_and_differ(databases: Path, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    records = written(output, "--databases", databases, "--count", 60)

    assert len(records) == 60
    assert {r["database"] for r in records} == {"shop", "zoo"}
    assert {r["source"] for r in records} == {"synthesized"}
    for record in records:
        with sqlite3.connect(databases / f"{record['database']}.sqlite") as connection:
            assert connection.execute(record["sql"]).fetchone() is not None
        assert record["template"]
        assert record["checks"]["writer"] == "rules"
    catalogue = Catalogue.open(databases)
    forms = {(r["database"], canonical(r["sql"], catalogue[r["database"]])) for r in records}
    questions = {(r["database"], question_key(r["question"])) for r in records}
    assert len(forms) == len(questions) == 60
    # What was written is what every other command reads.
    assert len(read_pairs(output, source="seed", split="train")) == 60
    page = (tmp_path / "pairs.jsonl.html").read_text()
    assert "<script" not in page
    assert "written by rule" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pairs.jsonl", "pairs.jsonl.html"]


def test_what_was_stopped_ends_as_what_was_not(
    databases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesize, "PART", 10)
    whole = written(tmp_path / "whole.jsonl", "--databases", databases, "--count", 40)

    noted = synthesize.Synthesis._note
    left = [23]

    def stopping(self: Any, pair: Any) -> None:
        left[0] -= 1
        if left[0] == 0:  # in the third part: it is in the file, and the state does not say so
            raise KeyboardInterrupt
        noted(self, pair)

    output = tmp_path / "stopped.jsonl"
    command = ["--databases", str(databases), "--count", "40", "--output", str(output)]
    monkeypatch.setattr(synthesize.Synthesis, "_note", stopping)
    assert main(command) == 1
    monkeypatch.setattr(synthesize.Synthesis, "_note", noted)
    assert not output.exists()
    assert main(command) == 2  # begun before
    assert main([*command, "--seed", "2", "--resume"]) == 2  # begun otherwise
    assert main([*command, "--resume"]) == 0

    assert [json.loads(line) for line in output.read_text().splitlines()] == whole


def test_excluded_and_given_pairs_do_not_come_out(databases: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl"
    before = written(first, "--databases", databases, "--count", 50)
    after = written(
        tmp_path / "after.jsonl", "--databases", databases, "--count", 50, "--exclude", first
    )
    seeded = written(
        tmp_path / "seeded.jsonl", "--databases", databases, "--count", 50, "--pairs", first
    )
    catalogue = Catalogue.open(databases)

    def forms(records: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return {(r["database"], canonical(r["sql"], catalogue[r["database"]])) for r in records}

    assert not forms(before) & forms(after)
    assert not forms(before) & forms(seeded)
    assert len(after) == len(seeded) == 50


def test_pairs_of_other_dialects_are_used_and_broken_ones_counted(
    databases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "mine.jsonl"
    record = {"database": "shop", "question": "Which names?"}
    texts = ["select top 3 name from customer order by age desc, id", "", "select nothing from it"]
    lines = [json.dumps({**record, "sql": sql}) for sql in texts]
    lines.append(json.dumps({**record, "database": "gone", "sql": "select 1"}))
    pairs.write_text("\n".join(lines))
    written(tmp_path / "p.jsonl", "--databases", databases, "--count", 5, "--pairs", pairs)
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 pairs" in said
    assert "unknown databases" in said
    assert "2 of 4 pairs" in said
    assert "have SQL that fails" in said


def test_sensitive_columns_are_hidden_on_request(databases: Path, tmp_path: Path) -> None:
    command = ["--databases", databases, "--count", 60, "--sensitive", "hide"]
    records = written(tmp_path / "p.jsonl", *command, "--sensitive-columns", "city,customer.age")
    assert not any("city" in r["sql"] or "age" in r["sql"] for r in records)


def test_a_mix_of_difficulties_is_kept(databases: Path, tmp_path: Path) -> None:
    records = written(
        tmp_path / "easy.jsonl", "--databases", databases, "--count", 30, "--mix", "easy=1"
    )
    # By Spider's rules a query with one join and nothing else is easy, and so is any FROM (SELECT).
    assert {hardness(r["sql"]) for r in records} == {"easy"}


def test_a_model_writes_where_it_passes_the_checks_and_rules_where_not(
    databases: Path, tmp_path: Path, qwen2_folder: Path
) -> None:
    command = ["--databases", databases, "--count", 3, "--model", qwen2_folder]
    records = written(tmp_path / "p.jsonl", *command)
    # Its weights are random: no question of its own can pass.
    assert [r["checks"]["writer"] for r in records] == ["rules"] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mix", "hardest=1"], "hardest=1"),
        (["--count", "0"], "--count"),
        (["--templates", "missing.txt"], "missing.txt"),
        (["--pairs", "missing.jsonl"], "missing.jsonl"),
        (["--model", "missing"], "missing"),
    ],
)
def test_bad_input_is_named(
    databases: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    output = ["--databases", str(databases), "--output", str(tmp_path / "p.jsonl")]
    assert main([*output, *arguments]) in (1, 2)
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert not (tmp_path / "p.jsonl").exists()


def test_a_database_without_rows_gives_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = sqlite3.connect(tmp_path / "empty.sqlite")
    empty.execute("create table t (a int)")
    empty.commit()
    output = tmp_path / "p.jsonl"
    assert main(["--databases", str(tmp_path), "--output", str(output)]) == 1
    assert "rows" in capsys.readouterr().err
    assert not output.exists()
