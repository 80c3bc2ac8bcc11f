"""Golds of other SQL dialects are used where their meaning in SQLite is certain."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spftcore.config import Config
from spftcore.databases import Catalogue
from spftcore.dialects import in_sqlite, readings
from spftcore.errors import SpftError
from spftcore.stages.context import RunContext
from spftcore.stages.prepare import prepare
from spftcore.store import Store
from spftcore.verify import Executor

FOREIGN = {  # query, and the same by hand in SQLite
    "SELECT TOP 2 name FROM city ORDER BY inhabitants DESC":
        "select name from city order by inhabitants desc limit 2",
    "SELECT inhabitants::text FROM city WHERE name ILIKE 'l%'":
        "select cast(inhabitants as text) from city where name like 'l%'",
    "SELECT name FROM city ORDER BY name FETCH FIRST 2 ROWS ONLY":
        "select name from city order by name limit 2",
    "SELECT guest FROM visit WHERE DATE_FORMAT(day, '%Y') = '2024' AND nights > 2":
        "select guest from visit where nights > 2",
}  # fmt: skip


@pytest.mark.parametrize("sql", FOREIGN)
def test_a_foreign_query_returns_what_its_sqlite_twin_does(sql: str, travel: Path) -> None:
    path = travel / "travel.sqlite"
    with Executor(threads=1) as executor:
        assert not executor.execute([(path, sql)])[0].ran
        (reading,) = in_sqlite([(path, sql)], executor)
    assert reading is not None
    with closing(sqlite3.connect(path)) as connection:
        rows = [connection.execute(text).fetchall() for text in (reading.sql, FOREIGN[sql])]
    assert rows[0] == rows[1] != []


@pytest.mark.parametrize(
    "sql",
    [
        "select from where",
        "how many cities?",
        "select name from city where (",
        "",
        "select 1; select 2",
        "select name from city ilike",
    ],
)
def test_what_no_dialect_reads_stays_unread(sql: str, travel: Path) -> None:
    with Executor(threads=1) as executor:
        assert in_sqlite([(travel / "travel.sqlite", sql)], executor) == [None]


def test_where_dialects_disagree_nothing_is_guessed(travel: Path) -> None:
    # Whole-number division in Postgres, not in MySQL; ILIKE is no hint which of them it is.
    sql = "SELECT inhabitants / 2 FROM city WHERE name ILIKE 'quito'"
    values = {reading.sql for reading in readings(sql)}
    assert len(values) > 1
    with Executor(threads=1) as executor:
        assert in_sqlite([(travel / "travel.sqlite", sql)], executor) == [None]


def test_results_without_rows_agree_on_nothing(travel: Path) -> None:
    sql = "SELECT inhabitants / 2 FROM city WHERE name ILIKE 'nowhere'"
    assert len({reading.sql for reading in readings(sql)}) > 1
    with Executor(threads=1) as executor:
        assert in_sqlite([(travel / "travel.sqlite", sql)], executor) == [None]


@pytest.mark.parametrize("sql", ["(" * 5000 + "1" + ")" * 5000, "select \x00 from t", "🙂" * 100])
def test_no_text_ends_the_reading(sql: str) -> None:
    assert isinstance(readings(sql), list)


def prepared(folder: Path, databases: Path, records: list[tuple[str, str]]) -> Store:
    pairs = folder / "pairs.jsonl"
    pairs.write_text(
        "\n".join(
            json.dumps({"database": database, "question": f"Number {i}?", "sql": sql})
            for i, (database, sql) in enumerate(records)
        )
    )
    config = Config.model_validate({"data": {"databases": databases, "pairs": pairs}})
    store = Store(folder / "run.sqlite")
    context = RunContext(config, folder, store, databases, lambda *_: None)
    with store.stage("prepare") as stage:
        prepare(context, stage)
    context.close()
    return store


def test_a_run_uses_foreign_golds_and_counts_what_it_cannot_read(
    tmp_path: Path, travel: Path
) -> None:
    for path in travel.iterdir():
        (tmp_path / "databases").mkdir(exist_ok=True)
        (tmp_path / "databases" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "databases" / "broken.sqlite").write_text("not a database at all")
    plain = [("travel", f"select guest from visit where nights > {i}") for i in range(6)]
    foreign = [("travel", sql) for sql in FOREIGN]
    bad = [("travel", "selec guest"), ("travel", "select moon from city"), ("broken", "select 1"),
           ("nowhere", "select 1")]  # fmt: skip
    store = prepared(tmp_path, tmp_path / "databases", plain + foreign + bad)
    pairs = store.pairs()
    assert len(pairs) == len(plain) + len(foreign)
    translated = [pair for pair in pairs if "dialect" in pair.checks]
    assert {pair.checks["sql before"] for pair in translated} == set(FOREIGN)
    result = store.result("prepare")
    assert result["unreadable databases"] == 1
    assert result["left out (gold does not run)"] == 2
    assert result["left out (unreadable database)"] == 1
    assert result["left out (unknown database)"] == 1
    assert "syntax error" in result["for example (gold does not run)"]
    messages = dict(store.query("select cause, message from excluded_pairs"))
    assert "broken.sqlite" in messages["unreadable database"]
    store.close()


def test_a_run_whose_pairs_all_fail_says_why(tmp_path: Path, travel: Path) -> None:
    records = [("travel", "selec guest"), ("nowhere", "select 1")]
    with pytest.raises(SpftError, match=r"gold does not run: 1, for example .*syntax error"):
        prepared(tmp_path, travel, records)


def test_the_catalogue_of_a_run_is_kept_in_its_folder(tmp_path: Path, travel: Path) -> None:
    prepared(tmp_path, travel, [("travel", f"select {i} from city") for i in range(8)]).close()
    assert len(list((tmp_path / "catalogue").iterdir())) == len(Catalogue.open(travel))


def test_a_training_run_names_the_databases_it_leaves_out(tmp_path: Path, travel: Path) -> None:
    from spftcore.train import _check_inputs

    for path in travel.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.sqlite").write_text("not a database at all")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"database": "travel", "question": "One?", "sql": "select 1"}))
    config = Config.model_validate(
        {
            "run": {"name": "x", "directory": tmp_path},
            "data": {"databases": tmp_path, "pairs": pairs},
        }
    )
    (message,) = _check_inputs(config)
    assert "broken.sqlite" in message
