"""What a query written by a model may not do, and what it may."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from spftcore.verify import Executor, Limits, Status

SCHEMA = """
CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);
INSERT INTO t VALUES (1, 'x'), (2, 'y');
CREATE VIEW v AS SELECT b FROM t;
CREATE VIEW listed AS SELECT value FROM json_each('[1, 2, 3]');
CREATE VIRTUAL TABLE f USING fts5(body, title);
INSERT INTO f VALUES ('hello world', 'one'), ('good bye', 'two');
CREATE VIRTUAL TABLE f4 USING fts4(body);
INSERT INTO f4 VALUES ('hello world');
CREATE VIRTUAL TABLE box USING rtree(id, low, high);
INSERT INTO box VALUES (1, 0, 1), (2, 5, 6);
CREATE VIRTUAL TABLE words USING fts5vocab(f, row);
"""

REFUSED = [
    # Files and other databases.
    "ATTACH 'other.db' AS o",
    "ATTACH ':memory:' AS o",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "SELECT load_extension('evil.so')",
    # Settings, in each of their shapes.
    "PRAGMA table_info(t)",
    "PRAGMA writable_schema = 1",
    "PRAGMA data_version",
    "SELECT * FROM pragma_table_info('t')",
    "SELECT name FROM pragma_table_info('t')",
    "SELECT count(*) FROM pragma_database_list",
    "SELECT 1 FROM t, pragma_database_list LIMIT 0",
    "SELECT (SELECT file FROM pragma_database_list)",
    # Writes.
    "INSERT INTO t VALUES (3, 'z')",
    "INSERT INTO t VALUES (3, 'z') RETURNING a",
    "REPLACE INTO t VALUES (1, 'z')",
    "WITH w AS (SELECT 9 x) INSERT INTO t SELECT x, x FROM w",
    "UPDATE t SET b = 'z'",
    "DELETE FROM t",
    "DELETE FROM sqlite_master",
    "INSERT INTO f(f) VALUES ('optimize')",
    "CREATE TABLE u (x)",
    "CREATE TABLE u AS SELECT 1",
    "CREATE TEMP TABLE t (a, b)",
    "CREATE TEMP VIEW t AS SELECT 1",
    "CREATE VIEW w AS SELECT 1",
    "CREATE INDEX i ON t (b)",
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE w USING fts5(x)",
    "DROP TABLE t",
    "DROP VIEW v",
    "ALTER TABLE t RENAME TO u",
    "REINDEX",
    "ANALYZE",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "RELEASE s",
    # More than one statement.
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE t",
    "SELECT 1;\ufeffDROP TABLE t",
    "SELECT 1; /* c */ -- c\n SELECT 2",
    "SELECT 1; x",
    # What explains or inspects the engine.
    "EXPLAIN SELECT 1",
    "EXPLAIN QUERY PLAN SELECT 1",
    "\ufeffEXPLAIN SELECT 1",
    "SELECT * FROM dbstat",
    "SELECT count(*) FROM dbstat",
    "SELECT * FROM words",
    "SELECT count(*) FROM words",
    "SELECT * FROM fts3tokenize('simple', 'a b')",
    "SELECT * FROM sqlite_temp_master",
    "SELECT sqlite_version()",
    "SELECT sqlite_source_id()",
    "SELECT sqlite_compileoption_get(1)",
    "SELECT sqlite_log(1, 'x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT changes()",
    "SELECT total_changes()",
    "SELECT last_insert_rowid()",
    "SELECT rtreecheck('box')",
    # Chance.
    "SELECT random()",
    "SELECT a FROM t ORDER BY random()",
    "SELECT hex(randomblob(8))",
    # Hidden deeper.
    "SELECT a FROM t WHERE b = (SELECT load_extension('x'))",
    "WITH c AS (SELECT random() r) SELECT count(*) FROM c WHERE r > 0",
    "SELECT sum(a) OVER (ORDER BY random()) FROM t",
]

# Not there at all in this library, which is as good.
ABSENT = [
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM sqlite_stmt",
    "SELECT * FROM bytecode('SELECT 1')",
    "SELECT * FROM temp.t",
    "SELECT * FROM other.t",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('x', 'y')",
    "SELECT edit('x')",
    "SELECT * FROM fsdir('/')",
    "SELECT eval('DROP TABLE t')",
]

ALLOWED = {
    "SELECT * FROM t": 2,
    "SELECT rowid, * FROM main.t": 2,
    "SELECT * FROM v": 2,
    "SELECT * FROM listed": 3,
    "SELECT name, sql FROM sqlite_master WHERE name = 't'": 1,
    "SELECT name FROM sqlite_schema WHERE name = 'v'": 1,
    "SELECT count(*) FROM v": 1,
    "WITH c AS (SELECT 1) SELECT count(*) FROM c": 1,
    "WITH c AS MATERIALIZED (SELECT a FROM t) SELECT count(*) FROM c x, c y": 1,
    "SELECT count(*) FROM (SELECT 1 UNION SELECT 2) AS renamed": 1,
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT x + 1 FROM c WHERE x < 9) SELECT x FROM c": 9,
    "SELECT b, row_number() OVER (PARTITION BY b ORDER BY a), lag(a) OVER () FROM t": 2,
    "SELECT key, value FROM json_each('[1, 2]')": 2,
    "SELECT json_extract('{\"a\": 1}', '$.a'), '{\"a\": 1}' -> 'a', '[1]' ->> 0": 1,
    "SELECT date('2020-01-01', '+1 day'), strftime('%Y', 'now') > '2000', CURRENT_DATE": 1,
    "SELECT printf('%05.2f', 1.5), iif(1, 2, 3), group_concat(b), sqrt(2) FROM t": 1,
    "SELECT * FROM f WHERE f MATCH 'hello'": 1,
    "SELECT title FROM f('hello') ORDER BY bm25(f)": 1,
    "SELECT count(*) FROM f": 1,
    "SELECT body FROM f4 WHERE f4 MATCH 'wor*'": 1,
    "SELECT id FROM box WHERE low >= 4": 1,
    'SELECT "no such column is text" FROM t': 2,
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sandbox") / "target.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    connection.close()
    return path


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(threads=1) as one:
        yield one


@pytest.mark.parametrize("sql", REFUSED)
def test_it_is_refused(executor: Executor, database: Path, sql: str) -> None:
    (outcome,) = executor.execute([(database, sql)])
    assert outcome.status is Status.DENIED, outcome
    assert outcome.message.endswith(("not allowed", "may not be modified"))


@pytest.mark.parametrize("sql", ABSENT)
def test_it_does_not_exist(executor: Executor, database: Path, sql: str) -> None:
    assert executor.execute([(database, sql)])[0].status is Status.MISSING_NAME


@pytest.mark.parametrize("sql", ALLOWED)
def test_it_is_allowed(executor: Executor, database: Path, sql: str) -> None:
    (outcome,) = executor.execute([(database, sql)])
    assert outcome.status is Status.OK, outcome
    assert outcome.rows == ALLOWED[sql]


def big(letter: str, size: int) -> str:
    return f"printf('%.*c', {size}, '{letter}')"


COUNTING = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
BOMBS = {
    # Endless by number of steps.
    COUNTING + "SELECT count(*) FROM c": Status.STEP_BUDGET,
    COUNTING + "SELECT max(x || 'a') FROM c": Status.STEP_BUDGET,
    "SELECT count(*) FROM " + ", ".join(f"t t{i}" for i in range(60)): Status.STEP_BUDGET,
    # Results, values and storage that grow.
    COUNTING + "SELECT x FROM c": Status.TOO_LARGE,
    "SELECT zeroblob(2000000000)": Status.TOO_LARGE,
    "SELECT printf('%2000000000d', 1)": Status.TOO_LARGE,
    "SELECT printf('%.*c', 2000000000, 'a')": Status.TOO_LARGE,
    "SELECT hex(zeroblob(900000))": Status.TOO_LARGE,
    f"SELECT replace({big('a', 900_000)}, 'a', {big('b', 900_000)})": Status.TOO_LARGE,
    "WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c) SELECT max(x) FROM c": (
        Status.TOO_LARGE
    ),
    COUNTING.replace("FROM c)", "FROM c LIMIT 10000)")
    + "SELECT group_concat(hex(zeroblob(500))) FROM c": Status.TOO_LARGE,
    COUNTING + "SELECT x FROM c ORDER BY zeroblob(100000) || x": Status.TOO_LARGE,
    COUNTING + "SELECT DISTINCT zeroblob(100000) || x FROM c": Status.TOO_LARGE,
    COUNTING + "SELECT count(*) FROM c GROUP BY zeroblob(100000) || x": Status.TOO_LARGE,
    # Text that is costly to compile.
    "SELECT " + "+".join(["1"] * 5000): Status.SQL_ERROR,
    "SELECT 1" + " UNION ALL SELECT 1" * 200: Status.SQL_ERROR,
    "SELECT " + "(" * 9000 + "1" + ")" * 9000: None,
    "SELECT " + "abs(" * 2000 + "1" + ")" * 2000: None,
    "SELECT " + ", ".join(["1"] * 3000): Status.SQL_ERROR,
    "SELECT " + "(SELECT " * 500 + "1" + ")" * 500: None,
    "WITH c0(x) AS (SELECT 1)"
    + "".join(f", c{i}(x) AS (SELECT a.x FROM c{i - 1} a, c{i - 1} b)" for i in range(1, 26))
    + " SELECT * FROM c25": None,
    # One step that would loop for long: LIKE and GLOB are charged, the others linear.
    f"SELECT {big('a', 900_000)} LIKE '%' || {big('a', 400)} || 'b'": Status.STEP_BUDGET,
    f"SELECT {big('a', 900_000)} GLOB '*' || {big('a', 400)} || 'b'": Status.STEP_BUDGET,
    f"SELECT {big('a', 9_000)} LIKE '%' || {big('a', 400)} || 'b'": Status.OK,
    f"SELECT {big('a', 900_000)} LIKE {big('%', 600)}": Status.OK,
    f"SELECT instr({big('a', 900_000)}, {big('a', 400_000)} || 'b')": Status.OK,
    f"SELECT length(replace({big('a', 900_000)}, {big('a', 400_000)} || 'b', ''))": Status.OK,
    f"SELECT trim({big('a', 900_000)}, {big('b', 400_000)} || 'a')": Status.OK,
    f"SELECT json_valid({big('[', 900_000)})": Status.OK,
}  # fmt: skip


@pytest.mark.parametrize("sql", BOMBS, ids=range(len(BOMBS)))
def test_a_bomb_ends_the_same_way_twice(database: Path, sql: str) -> None:
    # Fewer steps than the default only to keep the test quick; the clock must not be what ends it.
    limits = Limits(steps=5_000_000, seconds=120, temp_bytes=32 << 20)
    with Executor(threads=1, limits=limits) as one:
        first, second = (one.execute([(database, sql)])[0] for _ in range(2))
    assert first.status is not Status.TIME_BUDGET
    assert (first.status, first.message, first.steps) == (
        second.status,
        second.message,
        second.steps,
    )
    if BOMBS[sql] is not None:
        assert first.status is BOMBS[sql], first


def test_a_hostile_batch_leaves_every_file_as_it_was(
    executor: Executor, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(database.parent)

    def everything() -> dict[str, str]:
        return {
            str(p): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in database.parent.rglob("*")
            if p.is_file()
        }

    before = everything()
    queries = [*REFUSED, *ABSENT, *ALLOWED]
    random.Random(3).shuffle(queries)
    executor.execute([(database, sql) for sql in queries])
    executor.execute([("target.sqlite", sql) for sql in REFUSED])
    assert everything() == before


def test_a_read_only_folder_is_enough(executor: Executor, tmp_path: Path, database: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    copy = folder / "copy.sqlite"
    copy.write_bytes(database.read_bytes())
    copy.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert executor.execute([(copy, "SELECT b FROM t ORDER BY b")])[0].rows == 2
    finally:
        folder.chmod(0o755)


def test_linear_functions_agree_with_the_library_they_replace(
    executor: Executor, database: Path
) -> None:
    plain = apsw.Connection(":memory:")
    rng = random.Random(11)
    pieces = ["a", "b", "aa", "ä", "€", " ", "ab", "𝄞"]

    def value() -> str:
        kind = rng.randrange(12)
        fixed = {0: "NULL", 1: "12.5", 2: "x'6161c3a4'", 3: "121", 4: "''"}
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(6)))
        return fixed.get(kind, f"'{text}'")

    calls = []
    for _ in range(400):
        x, y, z = value(), value(), value()
        calls += [f"instr({x}, {y})", f"replace({x}, {y}, {z})", f"trim({x}, {y})",
                  f"ltrim({x}, {y})", f"rtrim({x}, {y})", f"trim({x})", f"ltrim({x})"]  # fmt: skip
    # Sixteen calls to a query: enough to be quick, few enough to read when one differs.
    for at in range(0, len(calls), 16):
        sql = "SELECT " + ", ".join(f"quote({call})" for call in calls[at : at + 16])
        assert executor.rows(database, sql)[1] == [next(plain.execute(sql))]


def test_like_and_glob_agree_with_the_library_they_replace(
    executor: Executor, database: Path
) -> None:
    plain = apsw.Connection(":memory:")
    rng = random.Random(5)
    pieces = ["a", "b", "A", "ä", "€", "𝄞", "%", "_", "*", "?", "[", "[^", "ab]", "]", "a-c]", "!",
              "-", "k", "\u212a", " ", "\uffff", "[]a]", "[a-", "[^]x]"]  # fmt: skip
    odd = ["NULL", "x'6162'", "12.5", "CAST(x'61ff62c3' AS TEXT)", "char(97, 0, 98)", "''"]

    def value(longest: int) -> str:
        if rng.random() < 0.1:
            return rng.choice(odd)
        return "'" + "".join(rng.choice(pieces) for _ in range(rng.randrange(longest))) + "'"

    calls = []
    for _ in range(1600):
        x, y = value(9), value(7)
        calls += [f"{x} LIKE {y}", f"{x} GLOB {y}",
                  f"{x} LIKE {y} ESCAPE '{rng.choice('!a%_ä')}'"]  # fmt: skip
    for at in range(0, len(calls), 16):
        sql = "SELECT " + ", ".join(f"quote({call})" for call in calls[at : at + 16])
        assert executor.rows(database, sql)[1] == [next(plain.execute(sql))]


def test_a_query_of_a_full_text_table_cannot_build_its_pattern(tmp_path: Path) -> None:
    path = tmp_path / "texts.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE VIRTUAL TABLE doc USING fts5(body); INSERT INTO doc VALUES ('a b'), ('b c');"
        "CREATE TABLE plain (x); INSERT INTO plain VALUES ('a-b');"
    )
    connection.close()
    allowed = [
        "SELECT body FROM doc WHERE doc MATCH 'b'",
        "SELECT count(*) FROM doc('b') WHERE body LIKE '%c%'",
        "SELECT replace(x, '-', '') FROM plain",
    ]
    refused = [
        "SELECT body FROM doc WHERE doc MATCH replace(hex(zeroblob(9)), '0', 'b ')",
        "SELECT body FROM doc(printf('%.900000c', 'b'))",
        "WITH RECURSIVE n(x, p) AS (SELECT 1, 'b' UNION ALL SELECT x + 1, p || ' b' FROM n "
        "WHERE x < 9) SELECT body FROM doc, n WHERE doc MATCH p",
        f"SELECT body FROM doc WHERE doc MATCH '{'b ' * 500}'",
    ]
    with Executor(threads=1) as executor:
        statuses = executor.execute([(path, sql) for sql in allowed + refused]).status.tolist()
    assert statuses == [Status.OK] * 3 + [Status.DENIED] * 4
