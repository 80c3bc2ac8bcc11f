"""Benchmarks as they are downloaded: questions with golds, their databases, what kind they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spftcore.database_files import database_files
from spftcore.errors import SpftError
from spftcore.record_files import (
    DATABASE,
    ID,
    SQL,
    capital,
    file_format,
    lines,
    records,
    text_of,
)

Kind = Literal["spider", "spider-syn", "spider-realistic", "spider-dk", "bird", "pairs"]

_WHAT = "questions file"
_QUESTION = ("question", "SpiderSynQuestion")

# Beside the questions, in Spider's and in BIRD's downloads.
_FOLDERS = ("database", "databases", "test_database", "dev_databases", "train_databases")
_TABLES = ("tables.json", "test_tables.json", "dev_tables.json", "train_tables.json")


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a benchmark.

    Attributes:
        id: the record's own, else its number in the file, from 1.
        number: its place in the file, from 1.
        database: id of the database.
        question: empty where the file holds golds alone.
        gold: SQL text.
        evidence: empty where there is none.
        difficulty: the benchmark's own class; empty where it has none.
        place: line or record number and file, for messages.
    """

    id: str
    number: int
    database: str
    question: str
    gold: str
    evidence: str
    difficulty: str
    place: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Questions and the files of their databases.

    Attributes:
        kind: which benchmark the file's content shows it to be; `pairs` for one's own.
        path: the file of questions.
        questions: all of them, in the file's order.
        has_ids: the file's records have ids of their own.
        databases: files by id; a question's may be missing.
        tables_json: the official schema file, where one lies beside the questions or databases.
    """

    kind: Kind
    path: Path
    questions: tuple[Question, ...]
    has_ids: bool
    databases: dict[str, Path]
    tables_json: Path | None


def read_benchmark(path: Path, databases: Path | None = None) -> Benchmark:
    """Reads a benchmark's file of questions; its format is told from its content.

    Args:
        path: JSON or JSONL of Spider, Spider-Syn, Spider-Realistic, Spider-DK, BIRD or our own
            pairs; or lines of `SQL<TAB>database`, as Spider's `dev_gold.sql` has them.
        databases: folder of `<id>/<id>.sqlite` or `<id>.sqlite`, or one that holds such a folder
            under its official name; None to look for it beside the questions.

    Raises:
        SpftError: a file is missing, empty or malformed (the record is named), or no folder of
            databases is found.
    """
    kind, questions, has_ids = _read(path)
    folder = _folder(path, databases)
    tables = [near / name for near in (path.parent, folder, folder.parent) for name in _TABLES]
    return Benchmark(
        kind,
        path,
        tuple(questions),
        has_ids,
        dict(database_files(folder)),
        next((file for file in tables if file.is_file()), None),
    )


def _folder(path: Path, given: Path | None) -> Path:
    if given is not None:
        holds = [given / name for name in _FOLDERS if (given / name).is_dir()]
        return holds[0] if len(holds) == 1 else given
    beside = [path.parent / name for name in _FOLDERS if (path.parent / name).is_dir()]
    if len(beside) != 1:
        found = " and ".join(folder.name for folder in beside) or "no folder of databases"
        raise SpftError(
            f"Beside {path} there is {found}. Name with --databases the folder that holds "
            "<id>/<id>.sqlite or <id>.sqlite files."
        )
    return beside[0]


def _read(path: Path) -> tuple[Kind, list[Question], bool]:
    form = file_format(path, _WHAT)
    if form == "text":
        return "spider", list(_gold_lines(path)), False
    questions = []
    seen: dict[str, str] = {}
    first: dict[str, Any] = {}
    for number, (place, record) in enumerate(records(path, _WHAT, form), 1):
        if not isinstance(record, dict):
            raise SpftError(f"{capital(place)} is not a JSON object.")
        first = first or record
        question = _question(record, number, place)
        if question.id in seen:
            raise SpftError(
                f"{capital(place)} has the id '{question.id}', as {seen[question.id]} has. Ids "
                "must be unique."
            )
        seen[question.id] = place
        questions.append(question)
    return _kind(first), questions, text_of(first, ID) is not None


def _question(record: dict[str, Any], number: int, place: str) -> Question:
    database = text_of(record, DATABASE) or ""
    if not database.strip():
        raise SpftError(f"{capital(place)} has no database (key 'db_id' or 'database').")
    gold = text_of(record, SQL)
    if gold is None:
        raise SpftError(
            f"{capital(place)} has no gold SQL (key 'query', 'SQL' or 'sql'). Without golds "
            "nothing can be scored."
        )
    return Question(
        id=text_of(record, ID) or str(number),
        number=number,
        database=database,
        question=" ".join((text_of(record, _QUESTION) or "").split()),
        gold=gold.strip(),
        evidence=(text_of(record, ("evidence",)) or "").strip(),
        difficulty=(text_of(record, ("difficulty",)) or "").strip(),
        place=place,
    )


def _gold_lines(path: Path) -> Iterator[Question]:
    count = 0
    for number, line in lines(path, _WHAT):
        if not line.strip():
            continue
        count += 1
        sql, tab, database = line.rpartition("\t")
        place = f"line {number} of {path}"
        if not tab or not database.strip():
            raise SpftError(f"{capital(place)} is neither a JSON object nor 'SQL<TAB>database'.")
        yield Question(str(count), count, database.strip(), "", sql.strip(), "", "", place)


def _kind(record: dict[str, Any]) -> Kind:
    """By the keys that one benchmark alone has."""
    if "SpiderSynQuestion" in record:
        return "spider-syn"
    if "SQL" in record:
        return "bird"
    if "db_id" not in record or "query" not in record:
        return "pairs"
    if "type" in record:
        return "spider-dk"
    if isinstance(record.get("sql"), list):
        return "spider-realistic"
    return "spider"
