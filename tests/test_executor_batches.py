"""How batches share the pool and come back: columns, streams, progress, cancellation, families."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spftcore.errors import SpftError, UsageError
from spftcore.verify import Executor, Limits, Status, Verdict

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
PATIENT = Limits(steps=1 << 60, seconds=600)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE t(a INTEGER, b TEXT); INSERT INTO t VALUES (1,'x'),(2,'y'),(3,NULL);"
    )
    connection.close()
    return path


# Columns


def test_columns_and_single_outcomes_say_the_same(database: Path) -> None:
    queries = [
        (database, "SELECT a, b FROM t"),
        (database, "SELECT a FROM t WHERE 0"),
        (database, "SELECT absent FROM t"),
        (database, "SELECT a, b FROM t"),
        (database, "SELECT NULL"),
    ]
    with Executor(threads=2) as executor:
        outcomes = executor.execute(queries)
    assert len(outcomes) == 5
    assert outcomes.status.tolist() == [
        Status.OK,
        Status.EMPTY,
        Status.MISSING_NAME,
        Status.OK,
        Status.OK,
    ]
    assert outcomes.rows.tolist() == [3, 0, 0, 3, 1] == [o.rows for o in outcomes]
    assert outcomes.columns.tolist() == [2, 1, 0, 2, 1] == [o.columns for o in outcomes]
    assert outcomes.ran.tolist() == [o.ran for o in outcomes]
    assert outcomes.steps.tolist() == [o.steps for o in outcomes]
    assert outcomes.seconds.tolist() == [o.seconds for o in outcomes]
    assert outcomes.all_null.tolist() == [False, False, False, False, True]
    prints = [o.fingerprint for o in outcomes]
    assert [p.decode() for p in outcomes.fingerprint.tolist()] == prints
    assert prints[0] == prints[3]
    assert prints[2] == ""
    assert outcomes[1:3] == [outcomes[1], outcomes[2]]
    assert outcomes[-1].all_null


def test_verdict_columns_follow_the_items(database: Path) -> None:
    gold = "SELECT a FROM t"
    items = [
        (database, gold, ["SELECT a FROM t WHERE 1", "SELECT b FROM t"]),
        (database, "SELECT nope", ["SELECT 1"]),
        (database, gold, []),
        (database, gold, ["SELECT 1 FROM t WHERE 0", gold, "syntax"]),
    ]
    with Executor(threads=2) as executor:
        verdicts = executor.verify(items)
    right, wrong, unjudged = Verdict.RIGHT, Verdict.WRONG, Verdict.UNJUDGED
    assert verdicts.offsets.tolist() == [0, 2, 3, 3, 6]
    assert verdicts.verdict.tolist() == [right, wrong, unjudged, wrong, right, wrong]
    assert verdicts.right.tolist() == [True, False, False, False, True, False]
    assert verdicts.score.tolist() == [1, 0, 0, 0, 1, 0]
    assert [[j.verdict for j in row] for row in verdicts] == [
        [right, wrong],
        [unjudged],
        [],
        [wrong, right, wrong],
    ]
    assert [o.status for o in verdicts.golds] == [j.gold.status for row in verdicts for j in row]
    assert verdicts[-1][1] == verdicts[3][1]
    assert [len(row) for row in verdicts[1:3]] == [1, 0]
    assert all(j.database == str(database) for row in verdicts for j in row)
    with pytest.raises(IndexError):
        verdicts[4]


# Scheduling, progress, cancellation


def test_a_batch_ends_while_another_callers_query_runs_on(database: Path) -> None:
    stop = threading.Event()
    ended: list[BaseException] = []

    def keep_going(done: int, total: int) -> None:
        if stop.is_set():
            raise InterruptedError("enough")

    with Executor(threads=2, limits=PATIENT) as executor:

        def endless() -> None:
            try:
                executor.execute([(database, ENDLESS)], progress=keep_going)
            except InterruptedError as error:
                ended.append(error)

        thread = threading.Thread(target=endless)
        thread.start()
        outcomes = executor.execute([(database, f"SELECT {i} FROM t") for i in range(200)])
        assert thread.is_alive()
        assert set(outcomes.status.tolist()) == {Status.OK}
        stop.set()
        thread.join()
    assert str(ended[0]) == "enough"


def test_one_endless_query_holds_back_no_other(database: Path) -> None:
    seen: list[int] = []

    def until_the_rest_is_done(done: int, total: int) -> None:
        seen.append(done)
        # The endless one sits in a run of its own or of a few: all others get done around it.
        if done >= total - 32:
            raise InterruptedError

    queries = [(database, ENDLESS), *((database, f"SELECT {i} FROM t") for i in range(2000))]
    with (
        Executor(threads=2, limits=PATIENT) as executor,
        pytest.raises(InterruptedError),
    ):
        executor.execute(queries, progress=until_the_rest_is_done)
    assert seen[-1] >= 2001 - 32


def test_progress_counts_up_and_what_it_raises_stops_the_batch(database: Path) -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise RuntimeError("stop here")

    with Executor(threads=1, limits=PATIENT) as executor:
        with pytest.raises(RuntimeError, match="stop here"):
            executor.verify(
                [(database, "SELECT 1", ["SELECT 2"]), (database, ENDLESS, ["SELECT 3"])],
                progress=progress,
            )
        assert [total for _, total in calls] == [4, 4, 4]
        assert sorted(calls) == calls
        assert executor.execute([(database, "SELECT 1")])[0].ran


def test_slow_steps_between_two_callbacks_end_at_the_deadline(database: Path) -> None:
    # A thousand rows pass between two looks at the clock, each with a search through 100 kB.
    sql = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
        "SELECT count(*) FROM n WHERE hex(zeroblob(50000 + x % 2)) LIKE '%' || x || '%0%1'"
    )
    with Executor(threads=1, limits=Limits(steps=1 << 60, seconds=0.3)) as executor:
        assert executor.execute([(database, sql)])[0].status is Status.TIME_BUDGET


def test_slow_queries_side_by_side_are_shared_out(database: Path) -> None:
    slow = (
        "WITH RECURSIVE c(x) AS (SELECT {} UNION ALL SELECT x + 1 FROM c LIMIT 400000) "
        "SELECT count(*) FROM c"
    )
    stuck: list[int] = []

    def until_only_the_endless_is_left(done: int, total: int) -> None:
        stuck.append(done)
        if done == total - 1:
            raise InterruptedError

    # The endless one is the second of a run: the slow ones behind it must not wait for it.
    queries = [(database, slow.format(1)), (database, ENDLESS)]
    queries += [(database, slow.format(i)) for i in range(2, 40)]
    with (
        Executor(threads=2, limits=PATIENT) as executor,
        pytest.raises(InterruptedError),
    ):
        executor.execute(queries, progress=until_only_the_endless_is_left)


# Streams


def items(database: Path) -> Iterator[tuple[Path, str, list[str]]]:
    for i in itertools.count():
        yield database, f"SELECT {i % 7}", [f"SELECT {i % 7}", f"SELECT {i % 5}"]


def test_a_stream_judges_as_a_batch_does(database: Path) -> None:
    some = list(itertools.islice(items(database), 100))
    with Executor(threads=2) as executor:
        whole = [[j.verdict for j in row] for row in executor.verify(some)]
        for chunk in (1, 7, 100, 1000):
            streamed = executor.stream(iter(some), chunk=chunk)
            assert [[j.verdict for j in row] for row in streamed] == whole
        assert list(executor.stream([])) == []
        with pytest.raises(UsageError, match="chunk"):
            executor.stream([], chunk=0)
        with pytest.raises(UsageError, match="Unknown comparison"):
            executor.stream([], "exact")  # type: ignore[arg-type]


def test_a_stream_reads_no_further_than_it_must(database: Path) -> None:
    read = 0

    def counted() -> Iterator[tuple[Path, str, list[str]]]:
        nonlocal read
        for item in items(database):
            read += 1
            yield item

    with Executor(threads=2) as executor:
        stream = executor.stream(counted(), chunk=10)
        for _ in range(25):
            next(stream)
        assert read <= 50
        stream.close()
        assert executor.execute([(database, "SELECT 1")])[0].ran


def test_closing_a_stream_stops_what_is_under_way(database: Path) -> None:
    def source() -> Iterator[tuple[Path, str, list[str]]]:
        yield database, "SELECT 1", ["SELECT 1"]
        yield database, ENDLESS, ["SELECT 1"]

    with Executor(threads=1, limits=PATIENT) as executor:
        stream = executor.stream(source(), chunk=1)
        assert next(stream)[0].verdict is Verdict.RIGHT
        stream.close()
        assert executor.execute([(database, "SELECT 1")])[0].ran


def test_an_error_in_the_source_of_a_stream_is_raised(database: Path) -> None:
    def source() -> Iterator[tuple[Path, str, list[str]]]:
        yield database, "SELECT 1", ["SELECT 1"]
        raise ValueError("line 2 is no pair")

    with Executor(threads=1) as executor, pytest.raises(ValueError, match="line 2"):
        list(executor.stream(source(), chunk=1))


# Families


@pytest.fixture
def families(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    from spftcore.verify.families import build_families

    folder = tmp_path_factory.mktemp("families")
    build_families({"shop": database}, {"shop": ["SELECT b FROM t WHERE a > 2"]}, folder)
    return folder


def test_the_family_catches_what_one_small_database_lets_pass(
    database: Path, families: Path
) -> None:
    gold, wrong = "SELECT b FROM t WHERE a > 2", "SELECT DISTINCT b FROM t WHERE a > 2"
    items = [(database, gold, [gold, wrong, "SELECT b FROM t WHERE a >= 3", "SELECT b"])]
    with Executor(threads=2, families=families) as executor:
        on_file = executor.verify(items)
        on_family = executor.verify(items, on="family")
    assert on_file.right.tolist() == [True, True, True, False]
    assert on_family.right.tolist() == [True, False, True, False]
    assert on_family[0][0].database == str(database)
    deciding = on_family[0][1].database
    assert Path(deciding).parent == families / "shop"
    plain = sqlite3.connect(deciding)
    assert plain.execute(gold).fetchall() != plain.execute(wrong).fetchall()
    plain.close()


def test_a_family_that_is_not_there_is_an_error_with_the_remedy(
    database: Path, tmp_path: Path
) -> None:
    item = [(database, "SELECT 1", ["SELECT 1"])]
    with Executor(threads=1) as executor, pytest.raises(UsageError, match="families=DIR"):
        executor.verify(item, on="family")
    with (
        Executor(threads=1, families=tmp_path / "none") as executor,
        pytest.raises(SpftError, match=r"spftcore\.verify\.families"),
    ):
        executor.verify(item, on="family")


def test_a_variant_that_is_gone_leaves_the_pair_unjudged(database: Path, families: Path) -> None:
    gold = "SELECT b FROM t WHERE a > 2"
    with Executor(threads=1, families=families) as executor:
        assert executor.verify([(database, gold, [gold])], on="family").right.all()
        for variant in (families / "shop").glob("*.sqlite"):
            variant.write_bytes(b"")
        verdicts = executor.verify([(database, gold, [gold])], on="family")
    assert verdicts.verdict.tolist() == [Verdict.UNJUDGED]


# What is given and what is kept


def test_items_may_come_from_a_generator(database: Path) -> None:
    with Executor(threads=1) as executor:
        verdicts = executor.verify((database, "SELECT 1", ["SELECT 1"]) for _ in range(3))
    assert len(verdicts) == 3


def test_a_gold_that_may_read_the_clock_is_not_kept(database: Path) -> None:
    with Executor(threads=1) as executor:
        for gold in ("SELECT datetime('now')", "SELECT current_time", "SELECT date('2020-01-01')"):
            executor.verify([(database, gold, ["SELECT 1"])])
        assert executor.counters["gold_entries"] == 0
        executor.verify([(database, "SELECT 2", ["SELECT 1"])])
        assert executor.counters["gold_entries"] == 1


def test_sort_keys_of_a_gold_do_not_count_as_its_result(database: Path) -> None:
    gold = "SELECT a FROM t ORDER BY replace(hex(zeroblob(4000)), '0', 'x') || a"
    with Executor(threads=1, limits=Limits(bytes=5000)) as executor:
        assert executor.verify([(database, gold, [gold])]).right.all()


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_no_limit_of_seconds_is_no_limit(database: Path, seconds: float) -> None:
    with Executor(threads=1, limits=Limits(seconds=seconds)) as executor:
        assert executor.execute([(database, "SELECT a FROM t")])[0].ran


@pytest.mark.parametrize("bad", [{"rows": 1e5}, {"steps": 10**20}, {"bytes": 0}])
def test_limits_out_of_range_are_usage_errors(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Limits(**bad)


def test_a_daemon_thread_in_a_batch_does_not_hinder_the_end_of_python(database: Path) -> None:
    code = textwrap.dedent(
        f"""
        import threading, time
        from spftcore.verify import Executor, Limits
        executor = Executor(threads=1, limits=Limits(steps=1 << 60, seconds=600))
        work = lambda: executor.execute([({str(database)!r}, {ENDLESS!r})])
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
        print("end", flush=True)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# Many databases


def test_ten_thousand_databases_fit_into_256_file_handles(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(10_000):
        os.link(database, folder / f"{i}.sqlite")
    code = textwrap.dedent(
        f"""
        import resource
        from pathlib import Path
        from spftcore.verify import Executor
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        files = sorted(Path({str(folder)!r}).iterdir())
        with Executor(threads=2) as executor:
            outcomes = executor.execute([(f, "SELECT count(*) FROM t") for f in files])
            print(sum(outcomes.ran), executor.counters["connections_opened"])
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["10000", "10000"], done.stderr


def test_seconds_and_steps_add_up_over_threads(database: Path) -> None:
    queries = [(database, f"SELECT a, {i} FROM t") for i in range(500)]
    with Executor(threads=1) as one, Executor(threads=4) as four:
        assert np.array_equal(one.execute(queries).steps, four.execute(queries).steps)
        assert one.counters["executed"] == four.counters["executed"] == 500
