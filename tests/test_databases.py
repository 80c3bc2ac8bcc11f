"""The catalogue reads folders of SQLite files as users have them, and says what is wrong."""

import json
import sqlite3
from pathlib import Path

import pytest
from sqlite_files import make

from spftcore.databases import Catalogue, ForeignKey, infer_kind, natural_name, quote_identifier
from spftcore.errors import SpftError
from spftcore.linking import ValueIndex

SHOP = """
create table customer (id integer primary key, "Home Town" text, since date not null);
create table "order" (
  id integer primary key, customer_id int references customer, placed text, paid bool, note);
insert into customer values (1, 'Quito', '2020-01-02'), (2, 'Lima', '2021-03-04'),
  (3, 'Quito', '2022-05-06');
insert into "order" values (1, 1, '2023-01-01', 1, 7), (2, 1, '2023-02-01', 0, 8.5),
  (3, 3, '2023-02-02', 1, null);
create view towns as select distinct "Home Town" from customer;
create view broken as select * from missing;
create virtual table notes using fts5(body);
insert into notes values ('a first note');
"""


def test_a_folder_holds_databases_as_files_and_as_folders(tmp_path: Path) -> None:
    make(tmp_path / "b.sqlite", SHOP)
    make(tmp_path / "a" / "a.db", SHOP)
    make(tmp_path / "other" / "unrelated.sqlite", SHOP)
    (tmp_path / "readme.txt").write_text("not a database")
    assert list(Catalogue.open(tmp_path)) == ["a", "b"]


def test_schema_is_read_with_keys_kinds_and_examples(tmp_path: Path) -> None:
    make(tmp_path / "shop.sqlite", SHOP)
    shop = Catalogue.open(tmp_path)["shop"]
    customer = shop.table("CUSTOMER")
    assert (customer.name, customer.rows) == ("customer", 3)
    assert [column.name for column in customer.primary_key] == ["id"]
    town = shop.column("Customer", "home town")
    assert town.examples[0] == "Quito"  # the most frequent value comes first
    assert town.natural_name == "home town"
    assert shop.column("customer", "since").not_null
    kinds = {column.name: column.kind for column in shop.table("order").columns}
    assert kinds == {
        "id": "number",
        "customer_id": "number",
        "placed": "date",  # declared text, but every value is a date
        "paid": "boolean",
        "note": "number",  # declared nothing
    }
    assert shop.foreign_keys == (
        ForeignKey("order", "customer_id", "customer", "id", "declared", 0),
    )
    assert shop.is_foreign_key("ORDER", "Customer_Id")


def test_views_and_virtual_tables_are_read_and_broken_ones_left_out(tmp_path: Path) -> None:
    make(tmp_path / "shop.sqlite", SHOP)
    shop = Catalogue.open(tmp_path)["shop"]
    assert {table.name for table in shop.tables} == {"customer", "order", "towns", "notes"}
    assert (shop.table("towns").is_view, shop.table("towns").rows) == (True, 2)
    assert [column.name for column in shop.table("notes").columns] == ["body"]


def test_tables_json_adds_foreign_keys_and_names(tmp_path: Path) -> None:
    make(
        tmp_path / "database" / "s.sqlite",
        "create table A (Id int); create table B (Aid int, x text);",
    )
    record = {
        "db_id": "s",
        "table_names_original": ["a", "b"],
        "table_names": ["apple", "basket"],
        "column_names_original": [[-1, "*"], [0, "id"], [1, "aid"], [1, "x"], [1, "gone"]],
        "column_names": [[-1, "*"], [0, "apple number"], [1, "apple"], [1, "mark"], [1, "gone"]],
        "foreign_keys": [[2, 1], [4, 1], [99, 1]],  # two of them name what is not there
    }
    (tmp_path / "tables.json").write_text(json.dumps([record]))
    database = Catalogue.open(tmp_path / "database")["s"]
    assert database.foreign_keys == (ForeignKey("B", "Aid", "A", "Id", "described", 0),)
    assert database.table("a").natural_name == "apple"
    assert database.column("b", "X").natural_name == "mark"


def test_composite_and_repeated_foreign_keys(tmp_path: Path) -> None:
    make(
        tmp_path / "c.db",
        """create table p (x int, y int, primary key (x, y));
        create table q (a int, b int, foreign key (a, b) references p,
          foreign key (a, b) references p (x, y), foreign key (a) references nowhere (z));""",
    )
    keys = Catalogue.open(tmp_path)["c"].foreign_keys
    assert [(key.column, key.ref_column, key.constraint) for key in keys] == [
        ("a", "x", keys[0].constraint),
        ("b", "y", keys[0].constraint),
    ]


def test_text_that_is_not_utf8_and_blobs_are_tolerated(tmp_path: Path) -> None:
    make(
        tmp_path / "odd.db",
        "create table t (a text, b); insert into t values (cast(x'ff41' as text), x'00ff'),"
        " ('fine', x'01');",
    )
    table = Catalogue.open(tmp_path)["odd"].table("t")
    assert table.find("a").examples == ("fine",)
    assert (table.find("b").kind, table.find("b").examples) == ("other", ())


def test_reading_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    path = make(tmp_path / "w.db", "pragma journal_mode=wal; create table t (a);")
    before = (sorted(tmp_path.iterdir()), path.read_bytes(), path.stat().st_mtime_ns)
    Catalogue.open(tmp_path)
    assert (sorted(tmp_path.iterdir()), path.read_bytes(), path.stat().st_mtime_ns) == before


def test_bad_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpftError, match="does not exist"):
        Catalogue.open(tmp_path / "missing")
    with pytest.raises(SpftError, match="holds no SQLite database"):
        Catalogue.open(tmp_path)
    make(tmp_path / "x.db", "create table t (a);")
    make(tmp_path / "x" / "x.sqlite", "create table t (a);")
    with pytest.raises(SpftError, match=r"id 'x'.*x/x\.sqlite and .*x\.db"):
        Catalogue.open(tmp_path)
    (tmp_path / "x.db").unlink()
    (tmp_path / "x" / "x.sqlite").unlink()
    (tmp_path / "y.sqlite").write_text("these are not the bytes of a database")
    with pytest.raises(SpftError, match=r"'y' .*y\.sqlite\) is not a SQLite file"):
        Catalogue.open(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = make(
        tmp_path / "cut.db",
        f"create table t (a); insert into t values {', '.join(['(1)'] * 900)};",
    )
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SpftError, match=r"'cut' .* cannot be read"):
        Catalogue.open(tmp_path)


def test_a_left_over_write_ahead_log_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = make(tmp_path / "live.db", "create table t (a);")
    (tmp_path / "live.db-wal").write_bytes(b"x")
    with pytest.raises(SpftError, match=r"live\.db-wal.*wal_checkpoint"):
        Catalogue.open(path.parent)


def test_a_malformed_tables_json_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "x.db", "create table t (a);")
    (tmp_path / "tables.json").write_text('{"not": "a list"}')
    with pytest.raises(SpftError, match=r"tables\.json"):
        Catalogue.open(tmp_path)


@pytest.mark.parametrize(
    ("declared", "values", "kind"),
    [
        ("varchar(9)", [("a", 3)], "text"),
        ("INT", [("low", 2), ("high", 3)], "text"),
        ("", [(1, 2), (2.5, 1)], "number"),
        ("TEXT", [("2020-01-02", 3), ("2021-2-3 10:00:00", 1)], "date"),
        ("DATETIME", [("Monday", 2)], "text"),
        ("TEXT", [("T", 5), ("F", 4)], "boolean"),
        ("INTEGER", [(0, 5), (1, 4)], "number"),
        ("bit", [(0, 5), (1, 4)], "boolean"),
        ("decimal(3,1)", [], "number"),
        ("", [], "text"),
    ],
)
def test_kind_follows_the_values_where_the_declaration_is_wrong(
    declared: str, values: list, kind: str
) -> None:
    assert infer_kind(declared, values) == kind


def test_names_in_words_and_in_quotes() -> None:
    assert [natural_name(n) for n in ("Home_Town", "homeTown", "FAXNumber", "Größe")] == [
        "home town",
        "home town",
        "fax number",
        "größe",
    ]
    assert quote_identifier('a"b') == '"a""b"'


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_text_of_a_utf_16_database_is_read(tmp_path: Path, encoding: str) -> None:
    connection = sqlite3.connect(tmp_path / "wide.sqlite")
    connection.executescript(
        f"pragma encoding = '{encoding}'; create table city (name text);"
        "insert into city values ('Zürich'), ('Łódź'), ('Zürich');"
    )
    connection.close()
    database = Catalogue.open(tmp_path)["wide"]
    assert database.table("city").columns[0].examples == ("Zürich", "Łódź")
    assert [m.value for m in ValueIndex(database).mentions("How many people live in Łódź?")] == [
        "Łódź"
    ]
