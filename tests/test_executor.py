"""The executor's behaviour towards its caller: statuses, caches, files, threads, interruption."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spftcore.errors import SpftError, UsageError
from spftcore.verify import Executor, Limits, Status, Verdict

DATA = Path(os.environ.get("SPFT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

SCHEMA = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER);
INSERT INTO singer VALUES (1, 'Ann', 31), (2, 'Bob', 25), (3, 'Cy', 25);
CREATE TABLE empty (x);
"""
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
UNREACHABLE_STEPS = 1 << 60


def make_database(path: Path, script: str = SCHEMA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return make_database(tmp_path / "shop.sqlite")


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(threads=2) as one:
        yield one


def status(executor: Executor, database: Path, sql: str) -> Status:
    return executor.execute([(database, sql)])[0].status


# Outcomes


def test_an_outcome_tells_size_steps_and_time(executor: Executor, database: Path) -> None:
    (outcome,) = executor.execute([(database, "SELECT name, age FROM singer")])
    assert outcome.status is Status.OK
    assert outcome.ran
    assert (outcome.rows, outcome.columns, outcome.message) == (3, 2, "")
    assert outcome.steps > 3
    assert outcome.seconds > 0
    assert len(outcome.fingerprint) == 32


@pytest.mark.parametrize(
    ("sql", "expected", "message"),
    [
        ("SELECT * FROM singer", Status.OK, ""),
        ("  SELECT 1 ; -- done\n ; /* really */", Status.OK, ""),
        ("VALUES (1, 2)", Status.OK, ""),
        ("SELECT * FROM empty", Status.EMPTY, ""),
        ("SELEC 1", Status.SYNTAX_ERROR, "syntax error"),
        ("SELECT (1", Status.SYNTAX_ERROR, "incomplete input"),
        ("SELECT 'a", Status.SYNTAX_ERROR, "unrecognized token"),
        ("", Status.SYNTAX_ERROR, "no statement"),
        ("-- nothing", Status.SYNTAX_ERROR, "no statement"),
        ("SELECT 1\0, 2", Status.SYNTAX_ERROR, "NUL"),
        ("\ud800", Status.SYNTAX_ERROR, ""),
        ("SELECT * FROM nobody", Status.MISSING_NAME, "no such table: nobody"),
        ("SELECT surname FROM singer", Status.MISSING_NAME, "no such column: surname"),
        ("SELECT soundslike(name) FROM singer", Status.MISSING_NAME, "no such function"),
        ("SELECT id FROM singer a, singer b", Status.SQL_ERROR, "ambiguous"),
        ("SELECT count(count(*)) FROM singer", Status.SQL_ERROR, "misuse of aggregate"),
        ("SELECT json('{')", Status.SQL_ERROR, "malformed JSON"),
        ("SELECT * FROM singer WHERE id = ?", Status.SQL_ERROR, "parameter"),
        ("SELECT * FROM singer WHERE id = :id", Status.SQL_ERROR, "parameter"),
        ("DELETE FROM singer", Status.DENIED, "DELETE"),
        (ENDLESS, Status.STEP_BUDGET, "50000000 steps"),
        ("SELECT zeroblob(1000001)", Status.TOO_LARGE, "too big"),
        ("SELECT '" + "x" * 20_000 + "'", Status.TOO_LARGE, "longer than 20000"),
    ],
)
def test_each_query_ends_in_its_status(
    executor: Executor, database: Path, sql: str, expected: Status, message: str
) -> None:
    (outcome,) = executor.execute([(database, sql)])
    assert outcome.status is expected, outcome
    assert message in outcome.message
    if not outcome.ran:
        assert (outcome.rows, outcome.columns, outcome.fingerprint) == (0, 0, "")
        assert outcome.message


def test_each_limit_stops_what_it_bounds(database: Path) -> None:
    def outcome(sql: str, **bounds: float) -> tuple[Status, str]:
        with Executor(threads=1, limits=Limits(**bounds)) as one:  # type: ignore[arg-type]
            (result,) = one.execute([(database, sql)])
        return result.status, result.message

    cross = "SELECT * FROM singer a, singer b, singer c"
    assert outcome(cross, rows=26) == (Status.TOO_LARGE, "the result has more than 26 rows")
    assert outcome(cross, rows=27)[0] is Status.OK
    assert outcome("SELECT id FROM singer", bytes=24)[0] is Status.OK
    assert outcome("SELECT id FROM singer", bytes=23)[0] is Status.TOO_LARGE
    assert outcome("SELECT printf('%1000d', 1)", value_bytes=999)[0] is Status.TOO_LARGE
    assert outcome("SELECT 1 -- " + "x" * 90, sql_bytes=99)[0] is Status.TOO_LARGE
    assert outcome(cross, steps=10)[0] is Status.STEP_BUDGET
    assert outcome(ENDLESS, steps=UNREACHABLE_STEPS, seconds=0.05) == (
        Status.TIME_BUDGET,
        "stopped after 0.05 s of wall-clock",
    )
    spill = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300) "
        "SELECT DISTINCT zeroblob(50000) || x FROM c"
    )
    assert outcome(spill, temp_bytes=4 << 20)[0] is Status.TOO_LARGE
    assert outcome(spill, temp_bytes=64 << 20)[0] is Status.OK


def test_the_step_budget_gives_the_same_outcome_every_time(database: Path) -> None:
    queries = [
        (database, "SELECT count(*) FROM singer a, singer b, singer c" + " " * i) for i in range(20)
    ]
    seen = set()
    for threads in (1, 2):
        with Executor(threads=threads, limits=Limits(steps=60)) as one:
            for _ in range(2):  # cold, then warm
                seen |= {(o.status, o.steps, o.message) for o in one.execute(queries)}
    assert len(seen) == 1
    assert {s[0] for s in seen} == {Status.STEP_BUDGET}


def test_all_null_means_rows_of_nothing_but_null(executor: Executor, database: Path) -> None:
    queries = [
        "SELECT NULL, NULL UNION ALL SELECT NULL, NULL",
        "SELECT NULL, 1",
        "SELECT x FROM empty",
        "SELECT max(x) FROM empty",
    ]
    outcomes = executor.execute([(database, sql) for sql in queries])
    assert [o.all_null for o in outcomes] == [True, False, False, True]


def test_fingerprints_name_the_bag_of_rows(executor: Executor, database: Path) -> None:
    def fingerprint(sql: str) -> str:
        return executor.execute([(database, sql)])[0].fingerprint

    base = fingerprint("SELECT id, name FROM singer")
    assert fingerprint("SELECT id * 1.0, name FROM singer ORDER BY id DESC") == base
    assert fingerprint("SELECT name, id FROM singer") != base
    assert fingerprint("SELECT id, name FROM singer WHERE id < 3") != base
    assert fingerprint("SELECT 1 FROM empty") != fingerprint("SELECT 1, 2 FROM empty")


def siphash_1_3_128(data: bytes, key0: int, key1: int) -> tuple[int, int]:
    """SipHash with one compression and three finalisation rounds, written from its paper."""
    mask = (1 << 64) - 1

    def rotate(x: int, n: int) -> int:
        return ((x << n) | (x >> (64 - n))) & mask

    v = [key0 ^ 0x736F6D6570736575, key1 ^ 0x646F72616E646F6D ^ 0xEE,
         key0 ^ 0x6C7967656E657261, key1 ^ 0x7465646279746573]  # fmt: skip

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[2] = (v[2] + v[3]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & mask
            v[0] = (v[0] + v[3]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    padded = data + b"\0" * (7 - len(data) % 8) + bytes([len(data) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(3)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(3)
    return low, v[0] ^ v[1] ^ v[2] ^ v[3]


def test_a_fingerprint_is_what_its_documentation_says(executor: Executor, database: Path) -> None:
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    row = b"i" + (25).to_bytes(8, "little") + b"t" + (3).to_bytes(8, "little") + b"Bob" + b"n"
    low, high = siphash_1_3_128(row, *key)
    total = (2 * ((high << 64) + low)) % (1 << 128)  # the row occurs twice
    shape = total.to_bytes(16, "little") + (2).to_bytes(8, "little") + (3).to_bytes(8, "little")
    low, high = siphash_1_3_128(shape, *key)
    sql = "SELECT 25, 'Bob', NULL UNION ALL SELECT 25.0, 'Bob', NULL"
    assert executor.execute([(database, sql)])[0].fingerprint == f"{high:016x}{low:016x}"


# Rows


def test_rows_come_with_their_column_names(executor: Executor, database: Path) -> None:
    names, rows = executor.rows(
        database, "SELECT name AS who, age / 2.0, NULL, x'00ff' FROM singer"
    )
    assert names[:1] == ["who"]
    assert rows[0] == ("Ann", 15.5, None, b"\x00\xff")
    assert len(rows) == 3


def test_rows_of_a_query_that_does_not_run_raise_with_the_reason(
    executor: Executor, database: Path
) -> None:
    with pytest.raises(SpftError, match=r"MISSING_NAME.*no such table: nobody"):
        executor.rows(database, "SELECT * FROM nobody")


# Database files


@pytest.mark.parametrize(
    "name", ["a b.sqlite", "what?.db", "50%20#1.db", "ünï/ço'dé\".db", "a&b=c"]
)
def test_odd_paths_are_opened(executor: Executor, tmp_path: Path, name: str) -> None:
    path = make_database(tmp_path / name)
    assert status(executor, path, "SELECT * FROM singer") is Status.OK
    assert executor.execute([(str(path), "SELECT 1 FROM singer")])[0].rows == 3


def test_a_bad_file_fails_its_own_queries_by_name(
    executor: Executor, database: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.sqlite"
    text.write_text("this is not a database, only a long enough text file\n" * 40)
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    corrupt = make_database(tmp_path / "corrupt.sqlite", SCHEMA)
    page = bytearray(corrupt.read_bytes())
    page[4096:] = b"\xa5" * (len(page) - 4096)
    corrupt.write_bytes(page)
    bad = {
        tmp_path / "missing.sqlite": "does not exist",
        text: "not a SQLite database",
        empty: "empty (0 bytes)",
        corrupt: "malformed",
        tmp_path: "not a regular file",
    }
    queries = [(path, "SELECT name FROM singer") for path in bad]
    outcomes = executor.execute([*queries, (database, "SELECT name FROM singer")])
    for (path, words), outcome in zip(bad.items(), outcomes, strict=False):
        assert outcome.status is Status.DATABASE_ERROR, outcome
        assert str(path) in outcome.message
        assert words in outcome.message
    assert outcomes[-1].status is Status.OK


@pytest.mark.parametrize(("suffix", "remedy"), [("-wal", "checkpoint"), ("-journal", "roll back")])
def test_a_database_with_a_log_beside_it_is_refused(
    executor: Executor, database: Path, suffix: str, remedy: str
) -> None:
    leftover = Path(f"{database}{suffix}")
    leftover.write_bytes(b"\1" * 100)
    (outcome,) = executor.execute([(database, "SELECT 1")])
    assert outcome.status is Status.DATABASE_ERROR
    assert remedy in outcome.message
    leftover.write_bytes(b"")  # what a clean close may leave
    assert status(executor, database, "SELECT 1") is Status.OK


def test_a_database_in_wal_mode_is_read_after_a_clean_close(
    executor: Executor, tmp_path: Path
) -> None:
    path = make_database(tmp_path / "wal.sqlite", "PRAGMA journal_mode = wal;" + SCHEMA)
    assert status(executor, path, "SELECT * FROM singer") is Status.OK


def test_a_replaced_file_is_not_read_stale(executor: Executor, database: Path) -> None:
    item = (database, "SELECT count(*) FROM singer", ["SELECT 3"])
    assert executor.verify([item])[0][0].verdict is Verdict.RIGHT
    times = database.stat()
    other = make_database(database.with_name("new"), SCHEMA.replace(", (3, 'Cy', 25)", ""))
    os.replace(other, database)
    os.utime(database, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert database.stat().st_size == times.st_size
    assert executor.rows(database, item[1])[1] == [(2,)]
    assert executor.verify([item])[0][0].verdict is Verdict.WRONG


def test_many_databases_need_few_connections(tmp_path: Path) -> None:
    paths = [
        make_database(tmp_path / f"{i}.db", f"CREATE TABLE t AS SELECT {i} x") for i in range(20)
    ]
    with Executor(threads=2, connections_per_thread=2) as one:
        files = Path("/proc/self/fd")
        before = len(list(files.iterdir())) if files.exists() else 0
        outcomes = one.execute([(p, sql) for sql in ("SELECT x FROM t", "SELECT 1") for p in paths])
        assert all(o.status is Status.OK for o in outcomes)
        if files.exists():
            assert len(list(files.iterdir())) - before <= 4


# Work done once


def test_identical_queries_run_once_per_batch(database: Path) -> None:
    with Executor(threads=2) as one:
        outcomes = one.execute([(database, "SELECT 1")] * 5 + [(database, "SELECT 2")])
        assert outcomes[0] is outcomes[4]
        assert one.counters["queries"] == 6
        assert one.counters["executed"] == 2
        assert one.counters["duplicates"] == 4
        assert one.counters["status_ok"] == 2


def test_golds_are_kept_between_batches(database: Path) -> None:
    gold = "SELECT name FROM singer ORDER BY age"
    with Executor(threads=1) as one:
        for i in range(3):
            ((judgement,),) = one.verify([(database, gold, [f"SELECT name FROM singer -- {i}"])])
            assert judgement.gold.rows == 3
        assert one.counters["gold_misses"] == 1
        assert one.counters["gold_hits"] == 2
        assert one.counters["executed"] == 4
        assert one.counters["gold_entries"] == 1
        assert one.counters["gold_bytes"] > 0
    with Executor(threads=1, gold_cache_bytes=0) as one:
        for _ in range(2):
            one.verify([(database, gold, [])])
        assert one.counters["gold_hits"] == 0


def test_one_query_may_be_gold_and_candidate_at_once(executor: Executor, database: Path) -> None:
    by_age = "SELECT name FROM singer ORDER BY age"
    by_name = "SELECT name FROM singer ORDER BY name"
    for _ in range(2):  # also when golds come from the cache
        first, second = executor.verify(
            [(database, by_age, [by_name, by_age]), (database, by_name, [by_age, by_name, by_name])]
        )
        assert [j.verdict for j in first] == [Verdict.WRONG, Verdict.RIGHT]
        assert [j.verdict for j in second] == [Verdict.WRONG, Verdict.RIGHT, Verdict.RIGHT]


# Verdicts


def test_verdicts_tell_wrong_from_undecided(database: Path) -> None:
    slow = ENDLESS.replace("FROM c)", "FROM c LIMIT 4000000)")  # in time, over the steps
    with Executor(threads=2, limits=Limits(steps=1_000_000)) as one:
        gold = "SELECT count(*) FROM singer"
        candidates = [
            "SELECT 3",
            "SELECT 3.0",
            "SELECT '3'",
            "SELECT 3, 3",
            "SELECT 3 UNION ALL SELECT 3",
            "SELECT 4",
            "SELECT x FROM nobody",
            "DROP TABLE singer",
            slow,
        ]
        (judged,) = one.verify([(database, gold, candidates)])
        right, wrong = Verdict.RIGHT, Verdict.WRONG
        assert [j.verdict for j in judged] == [right, right, *[wrong] * 7]
        reasons = [j.reason for j in judged]
        assert reasons[0] == "same result"
        assert reasons[2] == "rows differ"
        assert reasons[3] == "number of columns differs: 2, gold 1"
        assert reasons[4] == "number of rows differs: 2, gold 1"
        assert reasons[6] == "candidate did not run: no such table: nobody"
        assert judged[8].candidate.status is Status.STEP_BUDGET


def test_what_says_nothing_about_a_candidate_leaves_it_unjudged(
    database: Path, tmp_path: Path
) -> None:
    limits = Limits(steps=UNREACHABLE_STEPS, seconds=0.05)
    with Executor(threads=2, limits=limits) as one:
        items = [
            (database, "SELECT 1", [ENDLESS]),
            (database, "SELECT x FROM nobody", ["SELECT 1", "SELECT x FROM nobody"]),
            (tmp_path / "missing.sqlite", "SELECT 1", ["SELECT 1"]),
            (database, ENDLESS, ["SELECT 1"]),
        ]
        judged = one.verify(items)
    assert {j.verdict for row in judged for j in row} == {Verdict.UNJUDGED}
    assert judged[0][0].reason == "candidate undecided: stopped after 0.05 s of wall-clock"
    assert judged[1][0].reason == "gold did not run: no such table: nobody"
    assert "missing.sqlite" in judged[2][0].reason
    assert Verdict.RIGHT == 1
    assert Verdict.WRONG == 0


def test_two_empty_results_are_reported_as_such(executor: Executor, database: Path) -> None:
    (judged,) = executor.verify(
        [(database, "SELECT x FROM empty", ["SELECT 1 WHERE 0", "SELECT 1, 2 WHERE 0", "SELECT 1"])]
    )
    assert [(j.verdict, j.both_empty) for j in judged] == [
        (Verdict.RIGHT, True),
        (Verdict.WRONG, True),
        (Verdict.WRONG, False),
    ]


# Threads and life cycle


def test_the_number_of_threads_changes_no_answer(database: Path) -> None:
    items = [
        (
            database,
            f"SELECT name, {i % 7} FROM singer ORDER BY age",
            [f"SELECT name, {k} FROM singer ORDER BY age, id" for k in range(5)] + ["SELEC"],
        )
        for i in range(200)
    ]
    answers = []
    for threads in (1, 2, 5):
        with Executor(threads=threads) as one:
            assert one.threads == threads
            answers.append(
                [
                    [(j.verdict, j.reason, j.candidate.fingerprint) for j in row]
                    for row in one.verify(items)
                ]
            )
    assert answers[0] == answers[1] == answers[2]


def test_python_threads_may_share_an_executor(executor: Executor, database: Path) -> None:
    results: list[int] = []

    def work(n: int) -> None:
        results.extend(o.rows for o in executor.execute([(database, f"SELECT {n}")] * 10))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 40


def test_ctrl_c_stops_a_batch_and_leaves_the_executor_usable(database: Path) -> None:
    limits = Limits(steps=UNREACHABLE_STEPS, seconds=500)
    with Executor(threads=2, limits=limits) as one:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            one.verify([(database, "SELECT 1", [ENDLESS, ENDLESS + " "])])
        timer.join()
        assert status(one, database, "SELECT 1") is Status.OK


def test_a_closed_executor_says_so(database: Path) -> None:
    one = Executor(threads=1)
    one.close()
    one.close()
    with pytest.raises(SpftError, match="closed"):
        one.execute([(database, "SELECT 1")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_to_make_its_own(executor: Executor, database: Path) -> None:
    executor.execute([(database, "SELECT 1")])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        message = "no error"
        try:
            executor.execute([(database, "SELECT 1")])
        except SpftError as error:
            message = str(error)
        os.write(writer, message.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        assert b"fork" in answers.read()
    os.waitpid(child, 0)
    assert status(executor, database, "SELECT 1") is Status.OK


def test_the_native_module_alone_refuses_rather_than_crashes() -> None:
    script = """
        from spftcore import _executor
        assert not _executor.attached()
        try:
            _executor.Executor(threads=1, steps=1, seconds=1, rows=1, bytes=1, value_bytes=1,
                               sql_bytes=1, temp_bytes=1, connections_per_thread=1,
                               gold_cache_bytes=1)
        except RuntimeError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "spftcore.verify.Executor" in done.stdout


def test_open_apsw_connections_do_not_hinder(database: Path) -> None:
    script = f"""
        import apsw
        mine = apsw.Connection({str(database)!r})
        from spftcore.verify import Executor
        with Executor(threads=1) as executor:
            print(executor.execute([({str(database)!r}, "SELECT 1")])[0].status.name)
        print(mine.execute("SELECT count(*) FROM singer").fetchall())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["OK", "[(3,)]"]


@pytest.mark.parametrize(
    "arguments",
    [{"threads": -1}, {"connections_per_thread": 0}, {"gold_cache_bytes": -1}],
)
def test_arguments_out_of_range_are_usage_errors(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        Executor(**arguments)  # type: ignore[arg-type]


def test_wrong_shapes_are_refused_with_a_message(executor: Executor, database: Path) -> None:
    with pytest.raises(UsageError, match="bag"):
        executor.verify([], compare="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(database, sql\)"):
        executor.execute([(database, "SELECT 1", "x")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not one text"):
        executor.verify([(database, "SELECT 1", "SELECT 1")])
    with pytest.raises(TypeError, match="must be a str"):
        executor.execute([(database, 3)])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="steps"):
        Limits(steps=0)
    assert list(executor.execute([])) == []
    assert list(executor.verify([])) == []
    assert list(executor.verify([(database, "SELECT 1", [])])) == [[]]


# Real data


@pytest.mark.skipif(not (DATA / "spider").exists(), reason=f"no Spider below {DATA}")
def test_spider_dev_golds_equal_themselves_and_plain_sqlite(executor: Executor) -> None:
    pairs = json.loads((DATA / "spider" / "dev.json").read_text())
    folder = DATA / "spider" / "database"
    paths = {p["db_id"]: folder / p["db_id"] / f"{p['db_id']}.sqlite" for p in pairs}
    pairs = [p for p in pairs if paths[p["db_id"]].exists()]
    assert len(pairs) == 972
    judged = executor.verify([(paths[p["db_id"]], p["query"], [p["query"] + " "]) for p in pairs])
    wrong = [
        p["query"] for p, (j,) in zip(pairs, judged, strict=True) if j.verdict is not Verdict.RIGHT
    ]
    assert wrong == []
    assert sum(j.both_empty for (j,) in judged) == 49
    connections: dict[str, sqlite3.Connection] = {}
    for pair, (judgement,) in list(zip(pairs, judged, strict=True))[::7]:
        name = pair["db_id"]
        if name not in connections:
            connections[name] = sqlite3.connect(f"file:{paths[name]}?immutable=1", uri=True)
            connections[name].text_factory = bytes
        rows = connections[name].execute(pair["query"]).fetchall()
        assert (judgement.gold.rows, judgement.gold.ran) == (len(rows), True), pair["query"]
    for connection in connections.values():
        connection.close()
