"""Benchmarks' own files: what they are told to be, what is read, where databases are found."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from spftcore.benchmarks import read_benchmark
from spftcore.errors import SpftError

RECORD = {"db_id": "travel", "question": "How  many?", "query": "select 1 ;"}


@pytest.fixture
def databases(tmp_path: Path, travel: Path) -> Path:
    folder = tmp_path / "databases"
    folder.mkdir()
    (folder / "travel.sqlite").write_bytes((travel / "travel.sqlite").read_bytes())
    return folder


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def official(data: Path, name: str) -> Any:
    return json.loads((data / "formats" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "kind", "question"),
    [
        ("spider-dev-official.sample.json", "spider", "How many singers do we have?"),
        ("spider-syn-dev.sample.json", "spider-syn", "How many vocalists do we have?"),
        ("spider-dk.sample.json", "spider-dk", "How many singers do we have?"),
    ],
)
def test_spider_and_its_variants_are_told_apart(
    data: Path, databases: Path, name: str, kind: str, question: str
) -> None:
    benchmark = read_benchmark(data / "formats" / name, databases)
    assert benchmark.kind == kind
    assert not benchmark.has_ids
    first = benchmark.questions[0]
    assert (first.id, first.number, first.question) == ("1", 1, question)
    assert first.gold == "SELECT count(*) FROM singer"


def test_a_realistic_file_whose_sql_is_a_list_of_strings_has_its_gold_in_query(
    data: Path, databases: Path, tmp_path: Path
) -> None:
    records = [
        {**record, "sql": ["select", "count", "(", "*", ")", "from", "singer"]}
        for record in official(data, "spider-dev-official.sample.json")
    ]
    benchmark = read_benchmark(write(tmp_path / "realistic.json", records), databases)
    assert benchmark.kind == "spider-realistic"
    assert benchmark.questions[0].gold == "SELECT count(*) FROM singer"


def test_birds_mini_dev_has_ids_evidence_and_difficulty(data: Path, databases: Path) -> None:
    benchmark = read_benchmark(data / "formats" / "bird-mini-dev.sample.json", databases)
    assert (benchmark.kind, benchmark.has_ids) == ("bird", True)
    first = benchmark.questions[0]
    assert (first.id, first.difficulty) == ("1471", "simple")
    assert first.evidence.startswith("ratio of customers who pay in EUR")


def test_evidence_may_be_null_or_missing(databases: Path, tmp_path: Path) -> None:
    records = [
        {"question_id": i, "db_id": "travel", "question": "q", "SQL": "select 1", **more}
        for i, more in enumerate([{"evidence": None}, {}, {"evidence": " x "}])
    ]
    benchmark = read_benchmark(write(tmp_path / "b.json", records), databases)
    assert [q.evidence for q in benchmark.questions] == ["", "", "x"]
    assert [q.difficulty for q in benchmark.questions] == ["", "", ""]


def test_ones_own_pairs(databases: Path, tmp_path: Path) -> None:
    line = {"id": "a", "database": "travel", "question": "How  many?", "sql": "select 1"}
    benchmark = read_benchmark(write(tmp_path / "own.jsonl", json.dumps(line) + "\n\n"), databases)
    assert (benchmark.kind, benchmark.has_ids) == ("pairs", True)
    assert benchmark.questions[0].question == "How many?"


def test_lines_of_gold_and_database(databases: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "dev_gold.sql", "select\t1\ttravel\n\nselect 2\ttravel\n")
    benchmark = read_benchmark(path, databases)
    assert benchmark.kind == "spider"
    assert [(q.id, q.gold, q.place) for q in benchmark.questions] == [
        ("1", "select\t1", f"line 1 of {path}"),
        ("2", "select 2", f"line 3 of {path}"),
    ]


@pytest.mark.parametrize(
    ("layout", "given"),
    [
        ("database/travel/travel.sqlite", None),
        ("test_database/travel/travel.sqlite", None),
        ("dev_databases/travel/travel.sqlite", None),
        ("dev_databases/travel/travel.sqlite", "."),
        ("elsewhere/travel.sqlite", "elsewhere"),
    ],
)
def test_databases_and_tables_json_are_found_where_the_downloads_have_them(
    tmp_path: Path, travel: Path, layout: str, given: str | None
) -> None:
    file = tmp_path / layout
    file.parent.mkdir(parents=True)
    file.write_bytes((travel / "travel.sqlite").read_bytes())
    tables = write(tmp_path / "tables.json", [])
    path = write(tmp_path / "dev.json", [RECORD])
    benchmark = read_benchmark(path, None if given is None else tmp_path / given)
    assert benchmark.databases == {"travel": file}
    assert benchmark.tables_json == tables


def test_a_missing_database_is_no_error_yet(databases: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "dev.json", [{**RECORD, "db_id": "nowhere"}])
    assert read_benchmark(path, databases).questions[0].database == "nowhere"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ("[5]", "Record 1 of"),
        ([{"question": "q", "query": "select 1"}], "has no database"),
        ([RECORD, {"db_id": "travel", "question": "q"}], "Record 2 of"),
        ([{**RECORD, "id": "a"}, {**RECORD, "id": "a"}], "Ids must be unique"),
        ("select 1\n", "neither a JSON object nor"),
        ("[{", "is not valid JSON"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(
    databases: Path, tmp_path: Path, content: Any, said: str
) -> None:
    with pytest.raises(SpftError, match=said):
        read_benchmark(write(tmp_path / "dev.json", content), databases)


def test_no_folder_of_databases_beside_the_questions(tmp_path: Path) -> None:
    with pytest.raises(SpftError, match="--databases"):
        read_benchmark(write(tmp_path / "dev.json", [RECORD]))
    with pytest.raises(SpftError, match="Cannot read"):
        read_benchmark(tmp_path / "missing.json", tmp_path)


def test_the_folder_named_is_read_even_when_empty_of_databases(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "x.txt").close()
    with pytest.raises(SpftError, match="holds no SQLite database"):
        read_benchmark(write(tmp_path / "dev.json", [RECORD]), tmp_path)
