"""Thinned copies are made of every database: any encoding, declared type and file name."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spftcore.databases import Catalogue
from spftcore.synthesis.twins import COPIES, ThinnedCopies


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_copies_keep_part_of_the_rows_and_how_they_compare(tmp_path: Path, encoding: str) -> None:
    with closing(sqlite3.connect(tmp_path / "né w.sqlite")) as connection:
        connection.execute(f"pragma encoding = '{encoding}'")
        connection.execute('create table t (n varchar(9), "m" "text default", x)')
        connection.executemany("insert into t values (?, ?, ?)", [(n, "é", n) for n in range(200)])
        connection.commit()
    (database,) = Catalogue.open(tmp_path).values()
    with ThinnedCopies() as copies:
        paths = copies.paths(database)
        assert len(paths) == COPIES
        for path in paths:
            with closing(sqlite3.connect(path)) as connection:
                count, kinds, mark = connection.execute(
                    "select count(*), max(typeof(n) || typeof(x)), max(m) from t"
                ).fetchone()
            assert 40 < count < 200
            assert (kinds, mark) == ("textinteger", "é")
