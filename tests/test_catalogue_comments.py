"""Comments on columns come from the CREATE statement and from BIRD's files beside a database."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_files import make

from spftcore.catalogue.comments import create_comments
from spftcore.databases import Catalogue


@pytest.mark.parametrize(
    ("sql", "comments"),
    [
        ("create table t (a int, -- first\n b int -- second\n)", {"a": "first", "b": "second"}),
        ("create table t (\n -- on a\n a int,\n /* on\n b */ b int)", {"a": "on a", "b": "on b"}),
        ("create table t ( -- the table\n a int)", {}),
        ("create table t (a int /* x */ not null /* y */, b int)", {"a": "x; y"}),
        ("create table t (a int\n, b int -- lead comma\n)", {"b": "lead comma"}),
        ("create table t (a text default '-- no', b int) -- end", {}),
        ('create table t ("a -- b" int, [c]d] int)', {}),
        ("create table t (a int, primary key (a) -- the key\n)", {}),
        ("create table t (a decimal(3, 1), -- of a\n check (a > 0))", {"a": "of a"}),
        ("create table t (`A ``x` int -- odd\n)", {"a `x": "odd"}),
        ("create table t (a int, -- ------\n b int)", {}),
        ("create table t (a int /* never closed", {"a": "never closed"}),
        ("", {}),
    ],
)  # fmt: skip
def test_comments_inside_a_create_statement(sql: str, comments: dict[str, str]) -> None:
    assert create_comments(sql) == comments


def test_the_catalogue_gives_them_to_columns(tmp_path: Path) -> None:
    make(tmp_path / "d.db", "create table t (Price real, -- in euros\n Place text);")
    table = Catalogue.open(tmp_path)["d"].table("t")
    assert [column.comment for column in table.columns] == ["in euros", ""]


def test_bird_describes_columns_in_files_beside_the_database(tmp_path: Path) -> None:
    make(tmp_path / "s" / "s.sqlite", "create table Hero (id int, eye_colour_id int, x text);")
    described = tmp_path / "s" / "database_description"
    described.mkdir()
    head = "original_column_name,column_name,column_description,data_format,value_description\n"
    rows = 'eye_colour_id ,eye colour,"the hero\'s\n eye colour",integer,"1 – blue"\nx,,,text,\n'
    (described / "hero.csv").write_bytes(("\ufeff" + head + rows).encode())
    column = Catalogue.open(tmp_path)["s"].column("Hero", "eye_colour_id")
    assert (column.natural_name, column.comment) == (
        "eye colour",
        "the hero's eye colour; 1 – blue",
    )
    assert Catalogue.open(tmp_path)["s"].column("Hero", "x").comment == ""


def test_descriptions_in_other_encodings_or_malformed_are_no_obstacle(tmp_path: Path) -> None:
    make(tmp_path / "s" / "s.sqlite", "create table a (x int); create table b (y int);")
    described = tmp_path / "s" / "database_description"
    described.mkdir()
    text = "original_column_name,column_description\nx,caf\u00e9\n"
    (described / "a.csv").write_bytes(text.encode("cp1252"))
    (described / "b.csv").write_bytes(b'\x00\xff"unclosed,\n"')
    database = Catalogue.open(tmp_path)["s"]
    assert database.column("a", "x").comment == "café"
    assert database.column("b", "y").comment == ""


def test_long_comments_are_cut_at_a_word(tmp_path: Path) -> None:
    comment = create_comments(f"create table t (a int -- {'word ' * 200}\n)")["a"]
    assert len(comment) <= 300
    assert comment.endswith("word…")
