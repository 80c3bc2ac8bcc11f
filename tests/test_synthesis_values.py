"""Rows for literals come out of files that are damaged, and of tables of any width."""

import sqlite3
from pathlib import Path

from spftcore.databases import Catalogue
from spftcore.synthesis.values import DatabaseValues


def test_a_table_as_wide_as_sqlite_allows_gives_its_rows(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "wide.sqlite")
    connection.execute(f"create table w ({', '.join(f'c{n}' for n in range(2000))})")
    connection.execute("insert into w (c0, c1, c2, c1999) values (1, 'é', x'00ff', 2.5)")
    connection.commit()
    connection.close()
    (row,) = DatabaseValues(Catalogue.open(tmp_path)["wide"]).rows("w")
    assert row[:3] == (1, "é", None)  # a blob is no literal
    assert row[1999] == 2.5
    assert row[3:1999] == (None,) * 1996


def test_a_damaged_page_ends_the_rows_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "late.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("create table t (id integer primary key, name text)")
    connection.executemany("insert into t values (?, ?)", [(n, "x" * 50) for n in range(3000)])
    connection.commit()
    connection.close()
    database = Catalogue.open(tmp_path)["late"]
    content = bytearray(path.read_bytes())
    last = len(content) - 2 * 4096
    content[last:] = b"\xff" * (len(content) - last)
    path.write_bytes(content)
    rows = DatabaseValues(database).rows("t")
    assert 500 < len(rows) < 2000
    assert set(rows) <= {(n, "x" * 50) for n in range(3000)}
