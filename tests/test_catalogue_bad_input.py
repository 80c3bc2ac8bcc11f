"""Whatever a folder of SQLite files holds, the catalogue reads what can be read and names the rest.

The reference is Python's own sqlite3.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_files import make

from spftcore.databases import Catalogue, Database, quote_identifier
from spftcore.synthesis import (
    Template,
    TemplateError,
    TemplatePool,
    extract_bound,
    normalise_sql,
    render,
    synthesize_sql,
)
from spftcore.verify import Executor, Verdict

NAMES = (
    "select", "Order", "group", "two words", 'say "hi"', "it's", "Größe", "日本", "1st", "a]b",
    "back`tick", "semi;colon", "--dash", "/*c*/", " ", "%s", "{a}", "{v1 = a.1}", "tab\there",
    "new\nline", "t1", "value.dot", "",
)  # fmt: skip


def q(name: str) -> str:
    return quote_identifier(name)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """Each name is a table, and a column of it; each table refers to the one before."""
    folder = tmp_path_factory.mktemp("hostile")
    with closing(sqlite3.connect(folder / "odd.sqlite")) as connection, connection:
        for number, name in enumerate(NAMES):
            before = NAMES[number - 1]
            connection.execute(
                f"create table {q(name)} ({q(name + ' id')} integer primary key, {q(name)} text, "
                f"{q('n ' + name)} real, {q('ref ' + name)} int references {q(before)})"
            )
            rows = [(i, f"v{i % 5}'x", i * 1.5 + i % 3, i // 2) for i in range(12)]
            connection.executemany(f"insert into {q(name)} values (?, ?, ?, ?)", rows)
    return Catalogue.open(folder)["odd"]


def hostile_queries(name: str) -> list[str]:
    before = NAMES[NAMES.index(name) - 1]
    table, other, number = q(name), q(before), q("n " + name)
    join = f"{table}.{q('ref ' + name)} = {other}.{q(before + ' id')}"
    return [
        f"select {table}.{table} from {table} where {table}.{number} > 3",
        f"select {table}, count(*) from {table} group by {table} having count(*) > 1",
        f"select {table}.{table}, {other}.{other} from {table} join {other} on {join} "
        f"where {other}.{other} = 'v1''x'",
        f"select {table} from {table} order by {number} desc limit 3",
        f"select {table}.{table} from {table} where {number} = (select max({number}) from {table})",
    ]


def test_odd_names_are_read_as_they_are(hostile: Database) -> None:
    assert tuple(table.name for table in hostile.tables) == NAMES
    assert len(hostile.foreign_keys) == len(NAMES)
    for table in hostile.tables:
        assert table.columns[1].name == table.name
        assert table.columns[1].examples[0].endswith("'x")


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_survive_templates_and_printing(name: str, hostile: Database) -> None:
    with Executor(threads=1) as executor:
        for sql in hostile_queries(name):
            try:
                template, binding = extract_bound(sql, hostile)
            except TemplateError:  # the parser takes an empty name for none
                assert '""' in sql
                continue
            printed = render(Template(template.text).compiled, binding, hostile)
            styled = normalise_sql(sql, hostile)
            (judged,) = executor.verify([(hostile.path, sql, [printed, styled])])
            assert [each.verdict for each in judged] == [Verdict.RIGHT] * 2, (sql, printed, styled)


def test_odd_names_survive_filling_and_running(hostile: Database) -> None:
    pool = TemplatePool()
    for sql in hostile_queries("two words"):
        pool.add(extract_bound(sql, hostile)[0], "seed")
    with Executor(threads=1) as executor:
        result = synthesize_sql(pool, [hostile], executor, 250, random.Random(0))
    with closing(sqlite3.connect(hostile.path)) as connection:
        for query in result.queries:
            assert connection.execute(query.sql).fetchall()
    assert len(result.queries) == 250
    texts = "\n".join(query.sql for query in result.queries)
    assert [name for name in NAMES if q(name) not in texts and f" {name} " not in texts] == []


_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_VALUE = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.binary(max_size=8),
)
_TYPE = st.sampled_from(
    ["", "INT", "TEXT", "DATE", "BOOLEAN", "decimal(3,1)", "BLOB", "nonsense x"]
)


@st.composite
def schemas(draw: st.DrawFn) -> list[tuple[str, list[tuple[str, str]], list[list[object]]]]:
    """Tables as (name, columns with types, rows); names differ whatever their case."""
    ascii_lower = str.maketrans({chr(c): chr(c + 32) for c in range(ord("A"), ord("Z") + 1)})

    def key(name: str) -> str:
        return name.translate(ascii_lower).lower()

    tables = draw(st.lists(_NAME.filter(_is_free), min_size=1, max_size=3, unique_by=key))
    found = []
    for table in tables:
        names = draw(st.lists(_NAME, min_size=1, max_size=4, unique_by=key))
        columns = [(name, draw(_TYPE)) for name in names]
        row = st.lists(_VALUE, min_size=len(names), max_size=len(names))
        found.append((table, columns, draw(st.lists(row, max_size=5))))
    return found


def _is_free(name: str) -> bool:
    return not name.lower().startswith("sqlite_")  # SQLite keeps these for itself


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schema=schemas())
def test_any_schema_is_read_as_sqlite_knows_it(
    schema: list[tuple[str, list[tuple[str, str]], list[list[object]]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with closing(sqlite3.connect(folder / "d.db")) as connection, connection:
        for table, columns, rows in schema:
            stated = ", ".join(f"{q(name)} {type_}" for name, type_ in columns)
            connection.execute(f"create table {q(table)} ({stated})")
            marks = ", ".join("?" * len(columns))
            connection.executemany(f"insert into {q(table)} values ({marks})", rows)
    database = Catalogue.open(folder, cache=folder / "kept")["d"]
    again = Catalogue.open(folder, cache=folder / "kept")["d"]
    assert [table.name for table in database.tables] == [table for table, _, _ in schema]
    assert (again.tables, again.foreign_keys) == (database.tables, database.foreign_keys)
    with closing(sqlite3.connect(folder / "d.db")) as connection:
        for table in database.tables:
            name = q(table.name)
            info = connection.execute(f"pragma table_info({name})").fetchall()
            assert [c.name for c in table.columns] == [row[1] for row in info]
            assert [c.declared_type for c in table.columns] == [row[2] for row in info]
            assert connection.execute(f"select count(*) from {name}").fetchone() == (table.rows,)
            for column in table.columns:
                for value in column.examples:
                    sql = f"select count(*) from {name} where {q(column.name)} is ?"
                    assert connection.execute(sql, (value,)).fetchone()[0] > 0


def test_databases_without_keys_rows_or_more_than_one_column(tmp_path: Path) -> None:
    make(tmp_path / "bare.db", "create table a (x); create table b (y); insert into b values (1);")
    make(tmp_path / "empty.db", "create table a (x int references b); create table b (y date);")
    make(tmp_path / "nothing.db", "create table t (x); drop table t;")
    catalogue = Catalogue.open(tmp_path)
    assert [table.rows for table in catalogue["bare"].tables] == [0, 1]
    assert catalogue["bare"].foreign_keys == ()
    assert catalogue["empty"].column("b", "y").kind == "date"
    assert catalogue["nothing"].tables == ()


def test_five_hundred_columns(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(500)]
    script = f"create table wide ({', '.join(names)});"
    row = ", ".join(str(i) for i in range(500))
    make(tmp_path / "wide.db", script + f"insert into wide values ({row});" * 5)
    table = Catalogue.open(tmp_path)["wide"].table("wide")
    assert [column.name for column in table.columns] == names
    assert all(column.examples == (i,) for i, column in enumerate(table.columns))


def test_views_that_break_or_never_end_are_left_out(tmp_path: Path) -> None:
    make(
        tmp_path / "v.db",
        """create table t (a int); insert into t values (1), (2);
        create view fine as select a + 1 as b from t;
        create view broken as select * from missing;
        create view circle as select * from circle;
        create view endless as with recursive n(i) as (select 1 union all select i + 1 from n)
          select sum(i) as total from n;
        create view long as with recursive n(i) as (select 1 union all select i + 1 from n)
          select i from n;""",
    )
    database = Catalogue.open(tmp_path)["v"]
    assert {table.name: table.rows for table in database.tables} == {
        "t": 2,
        "fine": 2,
        "long": 10_000,
    }


def test_virtual_tables_are_read_and_their_shadows_hidden(tmp_path: Path) -> None:
    make(
        tmp_path / "v.db",
        """create virtual table note using fts5(title, body);
        insert into note values ('one', 'a first note'), ('two', 'another');
        create virtual table place using rtree(id, low_x, high_x);
        insert into place values (1, 0.0, 1.5);
        create virtual table old using fts4(text); insert into old values ('older');
        create table plain (a);""",
    )
    tables = {table.name: table for table in Catalogue.open(tmp_path)["v"].tables}
    assert set(tables) == {"note", "place", "old", "plain"}
    assert [column.name for column in tables["note"].columns] == ["title", "body"]
    assert (tables["note"].rows, tables["place"].rows) == (2, 1)


def test_a_virtual_table_of_an_unknown_module_is_left_out(tmp_path: Path) -> None:
    path = make(tmp_path / "v.db", "create virtual table v using fts5(a); create table t (a);")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma writable_schema = on")
        connection.execute("update sqlite_schema set sql = replace(sql, 'fts5', 'unheard')")
    assert "t" in {table.name for table in Catalogue.open(tmp_path)["v"].tables}
    assert Catalogue.open(tmp_path)["v"].find("v") is None


def test_one_bad_file_does_not_end_the_reading_of_the_others(tmp_path: Path) -> None:
    make(tmp_path / "fine.db", "create table t (a);")
    make(tmp_path / "log.db", "create table t (a);")
    (tmp_path / "log.db-wal").write_bytes(b"x")
    (tmp_path / "text.db").write_text("these are not the bytes of a database")
    cut = make(
        tmp_path / "cut.db", f"create table t (a); insert into t values {', '.join(['(1)'] * 900)};"
    )
    cut.write_bytes(cut.read_bytes()[:3000])
    (tmp_path / "zero.db").write_bytes(b"")
    catalogue = Catalogue.open(tmp_path)
    assert list(catalogue) == ["fine"]
    assert set(catalogue.unreadable) == {"log", "text", "cut", "zero"}
    assert all(f"{name}.db" in message for name, message in catalogue.unreadable.items())
    assert "wal_checkpoint" in catalogue.unreadable["log"]
    assert "not a SQLite file" in catalogue.unreadable["text"]


def test_malformed_text_in_values_names_and_types_is_no_obstacle(tmp_path: Path) -> None:
    path = make(
        tmp_path / "odd.db",
        """create table t (aaa text, b int); create table bad (a);
        insert into t values (cast(x'ff41' as text), 1), ('fine', 2), (x'00ff', 3);""",
    )
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma writable_schema = on")
        for old, new in ((b"aaa", b"a\xff\xfe"), (b"bad", b"b\xc3d"), (b"int", b"i\xfft")):
            connection.execute(
                "update sqlite_schema set name = cast(replace(cast(name as blob), ?1, ?2) as text),"
                " tbl_name = cast(replace(cast(tbl_name as blob), ?1, ?2) as text),"
                " sql = cast(replace(cast(sql as blob), ?1, ?2) as text)",
                (old.decode(), new),
            )
    database = Catalogue.open(tmp_path)["odd"]
    assert [table.name for table in database.tables] == ["t"]
    assert [column.name for column in database.table("t").columns] == ["b"]


def test_blobs_and_malformed_values_are_not_shown(tmp_path: Path) -> None:
    make(
        tmp_path / "odd.db",
        """create table t (a text, b, c text);
        insert into t values (cast(x'ff41' as text), x'00ff', cast(x'ff' as text)),
          ('fine', x'01', cast(x'fe' as text));""",
    )
    a, b, c = Catalogue.open(tmp_path)["odd"].table("t").columns
    assert (a.kind, a.examples) == ("text", ("fine",))
    assert (b.kind, b.examples) == ("other", ())
    assert c.examples == ()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_huge_values_do_not_fill_the_memory(tmp_path: Path) -> None:
    make(
        tmp_path / "huge.db",
        """create table h (body text, raw, after text);
        insert into h values (printf('%.*c', 100000000, 'a'), zeroblob(100000000), 'x');
        insert into h values ('short', x'00', 'y');""",
    )
    program = """
import re, sys
from pathlib import Path
from spftcore.databases import Catalogue

def peak():  # not getrusage: that of a child begins with its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

before = peak()
table = Catalogue.open(sys.argv[1])["huge"].table("h")
print([(c.kind, c.examples) for c in table.columns])
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    columns, grown = done.stdout.splitlines()
    assert columns == "[('text', ('short',)), ('other', ()), ('text', ('x', 'y'))]"
    assert int(grown) < 50 * 1024  # KiB; one of the values alone has 95 MiB


def test_all_spider_databases_are_read_and_the_same_from_the_cache(
    data: Path, tmp_path: Path
) -> None:
    folder = data / "spider" / "database"
    first = Catalogue.open(folder, cache=tmp_path)
    again = Catalogue.open(folder, cache=tmp_path)
    assert len(first) == 163
    assert first.unreadable == {}
    assert sum(table.rows for database in first.values() for table in database.tables) > 322_000
    assert first["world_1"].column("country", "indepyear").natural_name == "indepdent year"
    for name, database in first.items():
        assert again[name].tables == database.tables
        assert again[name].foreign_keys == database.foreign_keys


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    make(folder / "good.sqlite", "create table t (a); insert into t values (1);")
    (folder / os.fsdecode(b"ol\xe9.sqlite")).write_bytes((folder / "good.sqlite").read_bytes())
    catalogue = Catalogue.open(folder)
    assert list(catalogue) == ["good"]
    assert catalogue["good"].table("t").rows == 1
    ((name, message),) = catalogue.unreadable.items()
    assert name.encode() == b"ol\\xe9"
    assert "is not UTF-8" in message
    message.encode()  # can be printed
