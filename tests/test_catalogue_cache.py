"""What was read of a database is kept outside its folder, and never answers for another content."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_files import make

from spftcore import databases
from spftcore.databases import Catalogue, Database, Sensitivity

SCRIPT = """create table singer (singer_id integer primary key, name text); -- comment
create table song (id integer primary key, singer_id int, title text, length real);
insert into singer values (1, 'Ada'), (2, 'Größe'); insert into song values
(1, 1, 'Blue', 3.5), (2, 2, null, 9e999);"""
LONG_AGO = time.time() - 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One database that was last written long ago."""
    settle(make(tmp_path / "data" / "d.sqlite", SCRIPT))
    return tmp_path / "data"


def settle(path: Path) -> None:
    os.utime(path, (LONG_AGO, LONG_AGO))


def run(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the databases that were really read."""
    seen: list[str] = []
    read = databases.read_database

    def counted(database_id: str, *arguments: object, **named: object) -> Database:
        seen.append(database_id)
        return read(database_id, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(databases, "read_database", counted)
    return seen


def parts(catalogue: Catalogue) -> tuple[object, ...]:
    database = catalogue["d"]
    return database.tables, database.foreign_keys, database.path


def test_an_unchanged_file_is_read_once(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    before = sorted(folder.rglob("*"))
    first = Catalogue.open(folder, cache=tmp_path / "kept")
    again = Catalogue.open(folder, cache=tmp_path / "kept")
    assert reads == ["d"]
    assert parts(again) == parts(first)
    assert again["d"].foreign_keys[0].origin == "proposed"
    assert sorted(folder.rglob("*")) == before


def test_a_file_that_has_long_been_as_it_is_is_not_even_hashed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spftcore.catalogue import cache

    monkeypatch.setattr(cache, "SETTLED", -1.0)  # the file counts as old
    first = Catalogue.open(folder, cache=tmp_path / "kept")
    monkeypatch.setattr(cache, "file_digest", lambda path: pytest.fail(f"hashed {path}"))
    assert parts(Catalogue.open(folder, cache=tmp_path / "kept")) == parts(first)


def test_a_changed_file_is_read_again_even_if_its_times_and_size_are_the_same(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "d.sqlite"
    size = path.stat().st_size
    Catalogue.open(folder, cache=tmp_path / "kept")
    run(path, "update singer set name = 'Noor' where singer_id = 1")
    settle(path)
    assert path.stat().st_size == size
    names = Catalogue.open(folder, cache=tmp_path / "kept")["d"].column("singer", "name").examples
    assert set(names) == {"Noor", "Größe"}


def test_a_replaced_file_is_read_again(folder: Path, tmp_path: Path) -> None:
    Catalogue.open(folder, cache=tmp_path / "kept")
    other = make(tmp_path / "other.db", "create table only_this (a);")
    settle(other)
    other.replace(folder / "d.sqlite")
    tables = Catalogue.open(folder, cache=tmp_path / "kept")["d"].tables
    assert [table.name for table in tables] == ["only_this"]


def test_a_write_within_the_tick_of_the_clock_is_seen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system with coarse times: both writes have the same ones.
    from spftcore.catalogue import cache

    real = cache.file_state
    path = folder / "d.sqlite"

    def coarse(path: Path) -> cache.FileState:
        state = real(path)
        now = time.time_ns()
        return cache.FileState([state.values[0], now // 10**12, 0, 0, 0], settled=False)

    monkeypatch.setattr(cache, "file_state", coarse)
    monkeypatch.setattr(databases, "file_state", coarse)
    Catalogue.open(folder, cache=tmp_path / "kept")
    run(path, "update singer set name = 'Noor' where singer_id = 1")
    names = Catalogue.open(folder, cache=tmp_path / "kept")["d"].column("singer", "name").examples
    assert "Noor" in names


def test_a_touched_file_of_the_same_bytes_is_not_read_again(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    Catalogue.open(folder, cache=tmp_path / "kept")
    os.utime(folder / "d.sqlite")
    Catalogue.open(folder, cache=tmp_path / "kept")
    assert reads == ["d"]


def test_other_settings_and_descriptions_are_other_catalogues(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert Catalogue.open(folder, cache=kept)["d"].foreign_keys
    assert not Catalogue.open(folder, propose_keys=False, cache=kept)["d"].foreign_keys
    named = Sensitivity(patterns=("title",))
    database = Catalogue.open(folder, sensitivity=named, cache=kept)["d"]
    assert database.column("song", "title").sensitive
    (folder / "tables.json").write_text('[{"db_id": "d", "table_names_original": ["song"],'
                                        ' "table_names": ["tune"]}]')  # fmt: skip
    assert Catalogue.open(folder, cache=kept)["d"].table("song").natural_name == "tune"


@pytest.mark.parametrize("damage", ["", "{}\n{}", "\n", "null\nnull", "cut", "other content"])
def test_damaged_entries_are_ignored_and_replaced(
    folder: Path, tmp_path: Path, reads: list[str], damage: str
) -> None:
    first = Catalogue.open(folder, cache=tmp_path / "kept")
    (entry,) = (tmp_path / "kept").iterdir()
    text = entry.read_text()
    if damage == "cut":
        entry.write_text(text[:-40])
    elif damage == "other content":
        entry.write_text(text.replace("Ada", "Eve"))
    else:
        entry.write_text(damage)
    assert parts(Catalogue.open(folder, cache=tmp_path / "kept")) == parts(first)
    Catalogue.open(folder, cache=tmp_path / "kept")
    assert reads == ["d", "d"]


def test_a_cache_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert len(Catalogue.open(folder, cache=tmp_path / "kept")) == 1


def test_a_left_over_log_is_refused_also_when_the_database_is_known(
    folder: Path, tmp_path: Path
) -> None:
    Catalogue.open(folder, cache=tmp_path / "kept")
    make(folder / "other.sqlite", "create table t (a);")
    (folder / "d.sqlite-wal").write_bytes(b"x")
    assert "d.sqlite-wal" in Catalogue.open(folder, cache=tmp_path / "kept").unreadable["d"]
