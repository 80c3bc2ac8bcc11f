"""Worker processes: they answer as threads do, and their deaths end nothing but one query."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spftcore.errors import SpftError, UsageError
from spftcore.verify import Executor, Judgement, Limits, Outcome, Status, Verdict
from spftcore.verify.answers import (
    Nonsense,
    decode_executed,
    decode_rows,
    decode_verified,
    encode_executed,
    encode_verified,
)
from spftcore.verify.isolation import ProcessPool
from spftcore.verify.isolation_batches import Batch
from spftcore.verify.isolation_process import Death
from spftcore.verify.native import attached_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process isolation needs Linux")

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
PATIENT = Limits(steps=1 << 60, seconds=500)


def make_database(path: Path, rows: int = 3) -> Path:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age REAL)")
    connection.executemany(
        "INSERT INTO singer VALUES (?, ?, ?)", [(i, f"n{i % 7}", i % 5) for i in range(rows)]
    )
    connection.commit()
    connection.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("databases")
    for number in range(3):
        make_database(path / f"d{number}.sqlite", 10 + number)
    (path / "text.sqlite").write_text("no database")
    return path


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Executor]:
    with Executor(threads=2, isolation="process", limits=Limits(steps=200_000)) as one:
        yield one


@pytest.fixture(scope="module")
def patient() -> Iterator[Executor]:
    with Executor(threads=2, isolation="process", limits=PATIENT) as one:
        yield one


def pool(executor: Executor) -> ProcessPool:
    assert isinstance(executor._native, ProcessPool)
    return executor._native


def signal_the_busy(executor: Executor, number: signal.Signals, once: list[int]) -> None:
    """From a progress callback: the first worker seen inside a query gets a signal."""
    for process in pool(executor).processes:
        if not once and process.running()[0]:
            once.append(process.pid)
            os.kill(process.pid, number)


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process has ended, waiting for it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


# The same answers


CANDIDATES = (
    "SELECT name FROM singer",
    "SELECT name FROM singer ORDER BY id DESC",
    "SELECT name, age FROM singer",
    "SELECT age, name FROM singer",
    "SELECT DISTINCT name FROM singer",
    "SELECT name FROM singer WHERE id < 0",
    "SELECT count(*) FROM singer, singer b",
    "SELECT x FROM singer",
    "SELEC",
    "DELETE FROM singer",
    "SELECT 'é' || char(0x1F600), x'00ff'",
    "\ud800",
    ENDLESS,
)


def untimed(outcome: Outcome) -> Outcome:
    return replace(outcome, seconds=0.0)


def comparable(judgement: Judgement) -> Judgement:
    # A text that is an ordered gold elsewhere in its batch runs with its sort keys as further
    # columns: a few steps more. A chunk is a smaller batch.
    return replace(
        judgement,
        candidate=replace(judgement.candidate, seconds=0.0, steps=0),
        gold=replace(judgement.gold, seconds=0.0, steps=0),
    )


@pytest.mark.parametrize("compare", ["bag", "spider", "bird", "soft_f1"])
def test_verdicts_are_those_of_threads(shared: Executor, folder: Path, compare: str) -> None:
    chance = random.Random(1)
    names = ["d0.sqlite", "d1.sqlite", "d2.sqlite", "text.sqlite", "missing.sqlite"]
    items = [
        (
            folder / chance.choice(names),
            chance.choice(CANDIDATES[:-1]),
            chance.choices(CANDIDATES, k=chance.randrange(4)),
        )
        for _ in range(600)
    ]
    with Executor(threads=1, limits=Limits(steps=200_000)) as threads:
        expected = threads.verify(items, compare)  # type: ignore[arg-type]
    found = shared.verify(items, compare)  # type: ignore[arg-type]
    assert [list(map(comparable, one)) for one in found] == [
        list(map(comparable, one)) for one in expected
    ]
    for name in ("offsets", "verdict", "score", "both_empty"):
        column, reference = getattr(found, name), getattr(expected, name)
        assert column.dtype == reference.dtype
        np.testing.assert_array_equal(column, reference)


def test_outcomes_are_those_of_threads(shared: Executor, folder: Path) -> None:
    queries = [(folder / f"d{i % 3}.sqlite", CANDIDATES[i % 11]) for i in range(700)]
    queries.append((folder / "text.sqlite", "SELECT 1"))
    with Executor(threads=1, limits=Limits(steps=200_000)) as threads:
        expected = threads.execute(queries)
        found = shared.execute(queries)
        assert list(map(untimed, found)) == list(map(untimed, expected))
        for name in ("status", "rows", "columns", "steps", "all_null", "fingerprint"):
            assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_rows_are_those_of_threads(shared: Executor, folder: Path) -> None:
    sql = "SELECT id, name, age, NULL AS void, x'00ff', 1e999, 'é' FROM singer"
    with Executor(threads=1) as threads:
        assert shared.rows(folder / "d0.sqlite", sql) == threads.rows(folder / "d0.sqlite", sql)
    with pytest.raises(SpftError, match="SYNTAX_ERROR"):
        shared.rows(folder / "d0.sqlite", "SELEC")


def test_wrong_shapes_are_refused_as_by_threads(shared: Executor, folder: Path) -> None:
    database = folder / "d0.sqlite"
    with pytest.raises(ValueError, match=r"\(database, sql\)"):
        shared.execute([(database, "SELECT 1", "x")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not one text"):
        shared.verify([(database, "SELECT 1", "SELECT 1")])
    with pytest.raises(TypeError, match="must be a str"):
        shared.execute([(database, 3)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="null byte"):
        shared.execute([("a\0b", "SELECT 1")])
    assert list(shared.execute([])) == []
    assert list(shared.verify([])) == []
    assert list(shared.verify([(database, "SELECT 1", [])])) == [[]]


def test_relative_paths_follow_the_caller(
    shared: Executor, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for place, rows in ((folder, 10), (tmp_path, 0)):
        monkeypatch.chdir(place)
        if rows == 0:
            make_database(tmp_path / "d0.sqlite", 0)
        assert shared.execute([("d0.sqlite", "SELECT * FROM singer")])[0].rows == rows


def test_threads_and_streams_share_the_workers(shared: Executor, folder: Path) -> None:
    items = [
        (folder / f"d{i % 3}.sqlite", f"SELECT {i}", [f"SELECT {i + i % 2}"]) for i in range(900)
    ]
    expected = [Verdict.WRONG if i % 2 else Verdict.RIGHT for i in range(900)]
    found: list[list[Verdict]] = []

    def judge() -> None:
        found.append([one.verdict for (one,) in shared.stream(items, chunk=100)])

    callers = [threading.Thread(target=judge) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [expected] * 3


def test_golds_come_back_to_the_worker_that_knows_them(folder: Path) -> None:
    items = [(folder / f"d{i % 3}.sqlite", f"SELECT {i}", ["SELECT 1"]) for i in range(8)]
    with Executor(threads=1, isolation="process") as one:
        for _ in range(2):
            one.verify(items)
        counters = one.counters
    # By hand: 8 golds and 3 candidates run, of which "SELECT 1" is also a gold on d1; then 3 more.
    assert counters["queries"] == 32
    assert counters["gold_hits"] + counters["gold_misses"] == 16
    assert counters["gold_hits"] >= 7
    assert counters["executed"] == sum(n for name, n in counters.items() if "status_" in name)


# Deaths


def test_a_crash_ends_one_query(patient: Executor, folder: Path) -> None:
    database = folder / "d0.sqlite"
    killed: list[int] = []
    before = patient.counters
    items = [(database, f"SELECT {i}", [f"SELECT {i}"]) for i in range(40)]
    items[17] = (database, "SELECT 17", [ENDLESS, "SELECT 17"])

    def crash(done: int, total: int) -> None:
        assert 0 <= done <= total == 81
        signal_the_busy(patient, signal.SIGSEGV, killed)

    verdicts = patient.verify(items, progress=crash)
    crashed = verdicts[17][0]
    assert crashed.verdict is Verdict.UNJUDGED
    assert crashed.candidate.status is Status.CRASHED
    assert crashed.candidate.message == "the process that ran it died of SIGSEGV"
    assert verdicts.right.sum() == 40
    assert patient.verify(items[:5]).right.all()
    assert killed[0] not in [process.pid for process in pool(patient).processes]
    counters = patient.counters
    assert counters["status_crashed"] - before["status_crashed"] == 1
    assert counters["queries"] - before["queries"] == 91
    assert counters["executed"] == sum(n for name, n in counters.items() if "status_" in name)


def test_a_query_that_hangs_in_one_step_is_killed(folder: Path) -> None:
    stopped: list[int] = []
    limits = Limits(steps=1 << 60, seconds=0.3)
    with Executor(threads=1, isolation="process", limits=limits) as one:
        outcomes = one.execute(
            [(folder / "d0.sqlite", sql) for sql in ("SELECT 1", ENDLESS, "SELECT 2")],
            # A stopped process stands for one that never leaves a step.
            progress=lambda *_: signal_the_busy(one, signal.SIGSTOP, stopped),
        )
        assert outcomes.status.tolist() == [Status.OK, Status.TIME_BUDGET, Status.OK]
        if stopped:  # else the machine was so slow that the executor's own watchdog came first
            assert "it did not stop by itself" in outcomes[1].message
        assert one.execute([(folder / "d0.sqlite", "SELECT 3")]).ran.all()


def test_a_crash_while_showing_rows_is_an_error(patient: Executor, folder: Path) -> None:
    killed: list[int] = []

    def crash() -> None:
        while not killed:
            signal_the_busy(patient, signal.SIGKILL, killed)

    killer = threading.Thread(target=crash, daemon=True)
    killer.start()
    with pytest.raises(SpftError, match=r"CRASHED.*SIGKILL"):
        patient.rows(folder / "d0.sqlite", ENDLESS)
    killer.join()


def test_a_worker_that_dies_between_batches_is_replaced(patient: Executor, folder: Path) -> None:
    query = [(folder / "d0.sqlite", "SELECT 1")]
    assert patient.execute(query).ran.all()
    pids = [process.pid for process in pool(patient).processes]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert patient.execute(query * 5).ran.all()
    assert not set(pids) & {process.pid for process in pool(patient).processes}


def test_memory_is_bounded(folder: Path) -> None:
    hungry = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 150) "
        "SELECT count(*) FROM (SELECT DISTINCT zeroblob(900000) || x FROM c)"
    )
    limits = Limits(temp_bytes=8 << 30, seconds=60)
    with Executor(threads=1, isolation="process", memory_bytes=64 << 20, limits=limits) as one:
        outcomes = one.execute(
            [(folder / "d0.sqlite", sql) for sql in ("SELECT 1", hungry, "SELECT 2")]
        )
    assert outcomes.status[[0, 2]].tolist() == [Status.OK, Status.OK]
    assert outcomes[1].status in (Status.DATABASE_ERROR, Status.CRASHED)


def batch_of(sqls: list[str], folder: Path) -> Batch:
    digest = attached_module().query_digest
    database = os.fsencode(folder / "d0.sqlite")
    return Batch("execute", 0, [(database, sql) for sql in sqls], (), 1, digest)


def test_deaths_without_a_culprit_find_the_item_and_end(folder: Path) -> None:
    """An item that kills its worker outside any query, as a damaged file might on opening."""
    bad = "SELECT 5"
    batch = batch_of([f"SELECT {i}" for i in range(16)], folder)
    digest = attached_module().query_digest(os.fsencode(folder / "d0.sqlite"), bad, 0)
    deaths = 0
    settled = set()
    while batch.open:
        chunk = batch.take(0)
        preset = [query for query, _, _ in chunk.presets]
        texts = [batch.units[n][1] for n in chunk.units]
        if bad in texts and digest not in preset:
            deaths += 1
            batch.bury(chunk, Death("died of SIGBUS", None, Status.CRASHED, ""))
        else:
            if bad in texts:
                assert texts == [bad]
            settled.update(texts)
            batch.finish(chunk, None)
    assert batch.over.is_set()
    assert batch.error is None
    assert settled == {f"SELECT {i}" for i in range(16)}
    assert deaths <= 6  # halving 4 queries (a quarter of 16) at most, then twice alone


@pytest.mark.parametrize("blamed", [True, False])
def test_endless_deaths_end_the_batch(folder: Path, blamed: bool) -> None:
    batch = batch_of([f"SELECT {i}" for i in range(8)], folder)
    deaths = 0
    while batch.open:
        deaths += 1
        assert deaths < 100
        query = os.urandom(16) if blamed else None
        batch.bury(batch.take(0), Death("died of SIGBUS", query, Status.CRASHED, "no memory"))
    assert isinstance(batch.error, SpftError)
    assert "again and again" in str(batch.error)
    assert "no memory" in str(batch.error)


def test_workers_that_cannot_start_are_an_error() -> None:
    with pytest.raises(SpftError, match="did not start"):
        ProcessPool(1, 1 << 30, {"gold_cache_bytes": 0, "seconds": 1.0, "colour": "red"})


# The parent


def test_ctrl_c_stops_a_batch_and_keeps_the_workers(patient: Executor, folder: Path) -> None:
    database = folder / "d0.sqlite"
    pids = {process.pid for process in pool(patient).processes}

    def interrupt(done: int, total: int) -> None:
        for process in pool(patient).processes:
            os.kill(process.pid, signal.SIGINT)  # the terminal's may reach them; they ignore it
        if any(process.running()[0] for process in pool(patient).processes):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        patient.verify([(database, "SELECT 1", [ENDLESS])], progress=interrupt)
    assert patient.verify([(database, "SELECT 1", ["SELECT 1"])])[0][0].verdict is Verdict.RIGHT
    assert pids <= {process.pid for process in pool(patient).processes}


def test_closing_ends_the_workers(folder: Path) -> None:
    one = Executor(threads=2, isolation="process")
    one.execute([(folder / "d0.sqlite", "SELECT 1")] * 3)
    pids = [process.pid for process in pool(one).processes]
    one.close()
    one.close()
    assert all(gone(pid, 0) for pid in pids)
    with pytest.raises(SpftError, match="closed"):
        one.execute([(folder / "d0.sqlite", "SELECT 1")])


def test_a_forked_child_is_told_to_make_its_own(shared: Executor, folder: Path) -> None:
    query = [(folder / "d0.sqlite", "SELECT 1")]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        message = "no error"
        try:
            shared.execute(query)
        except SpftError as error:
            message = str(error)
        shared.close()  # must not touch the parent's workers
        os.write(writer, message.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        assert b"fork" in answers.read()
    os.waitpid(child, 0)
    assert shared.execute(query).ran.all()


@pytest.mark.parametrize("busy", [True, False])
def test_no_worker_outlives_a_killed_parent(folder: Path, tmp_path: Path, busy: bool) -> None:
    # No `if __name__ == "__main__"`, and a fork that holds the pipes open.
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import os, signal, sys
            from spftcore.verify import Executor, Limits
            one = Executor(1, Limits(steps=1 << 60, seconds=500), isolation="process")
            if os.fork() == 0:
                signal.pause()
            (process,) = one._native.processes
            def tell(done=0, total=0):
                if process.running()[0] or not {busy}:
                    print(process.pid, flush=True)
            if {busy}:
                one.execute([({str(folder / "d0.sqlite")!r}, {ENDLESS!r})], progress=tell)
            tell()
            signal.pause()
        """)
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, 0)
        parent.kill()
        parent.wait()
        assert gone(pid)
        os.killpg(parent.pid, signal.SIGKILL)  # its fork


def test_an_executor_nobody_closed_ends_with_the_interpreter(folder: Path) -> None:
    script = f"""
        from spftcore.verify import Executor
        one = Executor(1, isolation="process")
        assert one.execute([({str(folder / "d0.sqlite")!r}, "SELECT 1")]).ran.all()
        print(one._native.processes[0].pid)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert gone(int(done.stdout))
    assert done.stderr == ""


def test_a_worker_does_not_load_torch() -> None:
    check = "import sys, spftcore.verify, spftcore.verify.worker; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_arguments_are_checked() -> None:
    with pytest.raises(UsageError, match='isolation="process"'):
        Executor(memory_bytes=1 << 30)
    with pytest.raises(UsageError, match="64 MiB"):
        Executor(isolation="process", memory_bytes=1 << 20)
    with pytest.raises(UsageError, match="thread, process"):
        Executor(isolation="container")  # type: ignore[arg-type]


# What a worker says is not believed


def honest_answers(folder: Path) -> tuple[bytes, bytes]:
    """Of 3 queries, and of 2 items with 2 and 0 candidates."""
    database = folder / "d0.sqlite"
    sqls = ("SELECT 1", "SELEC", "SELECT name FROM singer")
    with Executor(threads=1) as threads:
        native = threads._native
        executed = native.execute([(database, sql) for sql in sqls], (), None)
        items = [(database, sqls[0], sqls[:2]), (database, sqls[2], [])]
        verified = native.verify(items, 0, (), None)
        counters = native.counters()
    return encode_executed(executed, counters), encode_verified(verified, counters)


def test_no_bytes_make_more_than_numbers_in_range(folder: Path) -> None:
    chance = random.Random(7)
    executed, verified = honest_answers(folder)
    assert decode_executed(executed, 3)[0]["rows"].tolist() == [1, 0, 10]
    assert decode_verified(verified, [2, 0])[0]["candidate"].shape == (2,)
    refused = 0
    for _ in range(3000):
        forged = bytearray(chance.choice((executed, verified)))
        for _ in range(chance.randrange(1, 4)):
            forged[chance.randrange(len(forged))] = chance.randrange(256)
        forged = forged[: chance.choice((len(forged), chance.randrange(len(forged))))]
        for decode in (
            lambda raw: decode_executed(raw, 3),
            lambda raw: decode_verified(raw, [2, 0]),
            decode_rows,
        ):
            try:
                answer, counters = decode(bytes(forged))
            except Nonsense:
                refused += 1
                continue
            assert isinstance(answer, dict)
            outcomes = answer.get("outcomes", answer)
            assert (outcomes["status"] < len(Status)).all()
            assert all(k < len(outcomes["status"]) for k in outcomes["messages"])
            assert type(counters["executed"]) is int
            if "candidate" in answer:
                assert (answer["candidate"] < len(outcomes["status"])).all()
                assert (answer["verdict"] <= 2).all()
    assert refused > 3000


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"[]",
        b'{"status": 0, "message": "", "names": ["a"], "rows": [[1, 2]]}',
        b'{"status": 0, "message": "", "names": ["a"], "rows": [[{"blob": 3}]]}',
        b'{"status": 99, "message": "", "names": [], "rows": []}',
        json.dumps({"status": 0, "message": "", "names": [], "rows": []}).encode(),
        b"\xff",
    ],
)
def test_forged_rows_are_refused(header: bytes) -> None:
    with pytest.raises(Nonsense):
        decode_rows(struct.pack("<I", len(header)) + header)
