"""Rates of the executor on Spider, against its peers and against a bare C loop in the same run.

    python bench/executor.py --data ../shared/data --output bench/results/executor.json

A pair is a gold query against a copy of itself. All texts are made distinct by a comment and the
cache of golds is off, so both sides of every pair are compiled, executed and compared. All take
turns within each round, each round beginning with another one, and ratios are taken within a round:
a busy machine disturbs all of them alike. The bare loop (`bench/bare_loop.cpp`) runs the same texts
on the same SQLite and reads every value, without sandbox, budgets or comparison: it is the limit.
`--scale` adds the cost of a query in batches of 1 thousand to 1 million.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import random
import resource
import shlex
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from executor_peers import ApswThreads, BirdMechanism, Item, SqliteProcesses, python_sqlite

from spftcore.verify import Executor

Query = tuple[str, str]  # database file, SQL
THREADS = (1, 2)
SLOW_SHARE = 8  # a slow peer gets every 8th pair: the same mix, a bearable time
SCALE = [1_000, 10_000, 100_000, 1_000_000]
CANDIDATES = 8
DISTINCT_SHARE = 0.4  # of the candidates of a question: 60 % repeat another one


# -- work ---------------------------------------------------------------------------------------


def load(data: Path, name: str) -> list[Query]:
    """(database file, gold) of one of Spider's files, where the database is there."""
    pairs = json.loads((data / "spider" / name).read_text(encoding="utf-8"))
    folder = data / "spider" / "database"
    found = [(folder / p["db_id"] / f"{p['db_id']}.sqlite", p["query"]) for p in pairs]
    return [(str(path), sql) for path, sql in found if path.exists()]


def distinct_items(golds: Sequence[Query], count: int, tag: str) -> list[Item]:
    """`count` pairs of which no text occurs twice."""
    items = []
    for i in range(count):
        path, sql = golds[i % len(golds)]
        items.append((path, f"{sql} /*{tag}.{i}.g*/", [f"{sql} /*{tag}.{i}.c*/"]))
    return items


def queries_of(items: Sequence[Item]) -> list[Query]:
    """Both sides of each pair, side by side."""
    return [(path, sql) for path, gold, answers in items for sql in (gold, *answers)]


def self_play_items(golds: Sequence[Query], questions: int, epoch: int) -> list[Item]:
    """What an opponent writes in self-play: 8 answers to each question, 60 % of them repeats.

    The golds are the same in every epoch. Of a question's distinct answers one is the gold in
    other words, and the others are golds of other questions on its database.
    """
    chance = random.Random(epoch)
    by_database: dict[str, list[str]] = {}
    for path, sql in golds:
        by_database.setdefault(path, []).append(sql)
    items = []
    for i in range(questions):
        path, gold = golds[i % len(golds)]
        wanted = CANDIDATES * DISTINCT_SHARE  # 3.2: 3 answers, and 4 for one question in five
        number = int(wanted) + (chance.random() < wanted % 1)
        others = [chance.choice(by_database[path]) for _ in range(number - 1)]
        distinct = [f"{sql} /*{epoch}.{i}.{k}*/" for k, sql in enumerate([gold, *others])]
        answers = distinct + chance.choices(distinct, k=CANDIDATES - number)
        chance.shuffle(answers)
        items.append((path, gold, answers))
    return items


def made_distinct(items: Sequence[Item], tag: str) -> list[Item]:
    """The same work with no text twice: what it costs without deduplication."""
    return [
        (
            path,
            f"{gold} /*{tag}.{i}*/",
            [f"{sql} /*{tag}.{i}.{k}*/" for k, sql in enumerate(answers)],
        )
        for i, (path, gold, answers) in enumerate(items)
    ]


# -- the bare loop ------------------------------------------------------------------------------


class BareLoop:
    """`bench/bare_loop.cpp`, compiled into a temporary folder and attached to apsw's SQLite.

    Only the loop itself is timed: texts are made ready before.
    """

    def __init__(self, paths: Sequence[str], folder: str) -> None:
        self._number = {path: i for i, path in enumerate(dict.fromkeys(paths))}
        library = Path(folder) / "bare_loop.so"
        compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
        command = [*compiler[:1], "-std=c++20", "-O3", "-fPIC", "-shared", "-pthread"]
        source = Path(__file__).with_name("bare_loop.cpp")
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        connection = apsw.Connection(":memory:")
        connection.enable_load_extension(True)
        connection.load_extension(str(library), "sqlite3_bareloop_init")
        connection.close()
        self._library = ctypes.CDLL(str(library))
        self._library.bare_open.restype = ctypes.c_void_p
        self._library.bare_run.restype = ctypes.c_double
        uris = [f"file:{path}?mode=ro&immutable=1".encode() for path in self._number]
        listed = (ctypes.c_char_p * len(uris))(*uris)
        self._handles = {
            n: ctypes.c_void_p(self._library.bare_open(listed, len(uris), n)) for n in THREADS
        }

    def seconds(self, queries: Sequence[Query], threads: int) -> float:
        """Runs all queries; their wall-clock seconds."""
        numbers = array("i", (self._number[path] for path, _ in queries))
        databases = (ctypes.c_int32 * len(queries)).from_buffer(numbers)
        texts = (ctypes.c_char_p * len(queries))(*(sql.encode() for _, sql in queries))
        rows, failed = ctypes.c_int64(), ctypes.c_int64()
        seconds = self._library.bare_run(
            self._handles[threads], databases, texts, ctypes.c_int64(len(queries)),
            ctypes.byref(rows), ctypes.byref(failed),
        )  # fmt: skip
        if failed.value:
            sys.exit(f"bare loop: {failed.value} of {len(queries)} queries failed")
        return float(seconds)

    def on_threads(self, threads: int) -> Callable[[list[Item]], float]:
        """Seconds for both sides of pairs."""
        return lambda items: self.seconds(queries_of(items), threads)

    def close(self) -> None:
        for handle in self._handles.values():
            self._library.bare_close(handle)


# -- measuring ----------------------------------------------------------------------------------


@dataclass
class Entry:
    """One row of the table: `run` returns the seconds for the items it is given."""

    name: str
    unit: str  # pairs or queries
    run: Callable[[list[Item]], float]
    share: int = 1


def timed(name: str, run: Callable[[list[Item]], int]) -> Callable[[list[Item]], float]:
    """Seconds of a peer that counts right answers; all must be right, as every gold is."""

    def seconds(items: list[Item]) -> float:
        start = time.perf_counter()
        right = run(items)
        taken = time.perf_counter() - start
        if right != len(items):
            sys.exit(f"{name}: only {right} of {len(items)} golds equal themselves")
        return taken

    return seconds


def verifying(executor: Executor) -> Callable[[list[Item]], int]:
    return lambda items: int(executor.verify(items).right.sum())


def executing(executor: Executor) -> Callable[[list[Item]], float]:
    def seconds(items: list[Item]) -> float:
        queries = queries_of(items)
        start = time.perf_counter()
        outcomes = executor.execute(queries)
        ran = int(outcomes.ran.sum())
        taken = time.perf_counter() - start
        if ran != len(queries):
            sys.exit(f"execute: only {ran} of {len(queries)} golds ran")
        return taken

    return seconds


def rounds_of(
    entries: Sequence[Entry], golds: Sequence[Query], count: int, rounds: int
) -> dict[str, list[float]]:
    """Rates of each entry per round, after one round that warms connections and caches."""
    rates: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for number in range(rounds + 1):
        items = distinct_items(golds, count, str(number))
        first = number % len(entries)
        for entry in [*entries[first:], *entries[:first]]:
            part = items[:: entry.share]
            per_item = 2 if entry.unit == "queries" else 1
            rate = per_item * len(part) / entry.run(part)
            if number:
                rates[entry.name].append(rate)
    return rates


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The executor against the bare loop, each taken within a round."""
    one, two = (f"{n} thread{'s' if n > 1 else ''}" for n in THREADS)
    result = {}
    for label in (one, two):
        bare = rates[f"bare loop, {label}"]
        result[f"execute / bare loop, {label}"] = ratio(rates[f"execute, {label}"], bare)
        both_sides = [2 * rate for rate in rates[f"verify, {label}"]]
        result[f"verify (2 queries a pair) / bare loop, {label}"] = ratio(both_sides, bare)
    scaling = {
        name: ratio(rates[f"{name}, {two}"], rates[f"{name}, {one}"])
        for name in ("verify", "execute", "bare loop")
    }
    result |= {f"{name}, {two} / {one}": values for name, values in scaling.items()}
    for name in ("verify", "execute"):
        result[f"scaling of {name} / of bare loop"] = ratio(scaling[name], scaling["bare loop"])
    return {name: spread(values, 3) for name, values in result.items()}


def scale(golds: Sequence[Query], sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Microseconds per query in one batch of each size, all texts distinct, two threads."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    memory: dict[int, int] = {}
    with Executor(threads=THREADS[-1], gold_cache_bytes=0) as executor:
        executor.execute(golds)
        for number in range(rounds):
            for size in sizes:
                # Small batches several times: their own time is too short to measure.
                for repeat in range(max(1, min(20, 10_000 // size))):
                    tag = f"{number}.{repeat}"
                    queries = queries_of(distinct_items(golds, size // 2, tag))
                    start = time.perf_counter()
                    ran = int(executor.execute(queries).ran.sum())
                    times[size].append(1e6 * (time.perf_counter() - start) / len(queries))
                    if ran != len(queries):
                        sys.exit(f"execute: only {ran} of {len(queries)} golds ran")
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                memory.setdefault(size, peak // 1024)
    return [
        {
            "queries": size,
            "microseconds_per_query": spread(times[size], 2),
            "peak_memory_mib": memory[size],
        }
        for size in sizes
    ]


def self_play(golds: Sequence[Query], questions: int, rounds: int) -> list[dict[str, Any]]:
    """Two batches with the same golds and new answers, with nothing spared and with all of it."""
    shown = ("queries", "executed", "duplicates", "gold_hits", "gold_misses")
    epochs = [self_play_items(golds, questions, epoch) for epoch in (1, 2)]
    seconds: dict[tuple[str, int], list[float]] = {}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for number in range(rounds):
        for spared in ("nothing spared", "deduplication and gold cache"):
            cache = 64 << 20 if spared.startswith("dedup") else 0
            with Executor(threads=THREADS[-1], gold_cache_bytes=cache) as executor:
                executor.execute(
                    golds
                )  # warms the connections; the cache holds verified golds only
                for epoch, items in enumerate(epochs, 1):
                    work = items if cache else made_distinct(items, f"{number}.{epoch}")
                    before = executor.counters
                    start = time.perf_counter()
                    right = int(executor.verify(work).right.sum())
                    key = spared, epoch
                    seconds.setdefault(key, []).append(time.perf_counter() - start)
                    after = executor.counters
                    counters = {name: after[name] - before[name] for name in shown}
                    rows[key] = {"right": right, "counters": counters}
    result = []
    for key, row in rows.items():
        spared, epoch = key
        rate = [questions * CANDIDATES / one for one in seconds[key]]
        gain = ratio(seconds["nothing spared", epoch], seconds[key])
        named = {"spared": spared, "batch": epoch, "candidates_per_second": spread(rate)}
        result.append(named | {"times_faster": spread(gain, 2)} | row)
    if len({row["right"] for row in result if row["batch"] == 1}) != 1:
        sys.exit("self-play: deduplication changes the number of right answers")
    return result


# -- showing ------------------------------------------------------------------------------------


def between(values: dict[str, float], form: str) -> str:
    low, high = format(values["lowest"], form), format(values["highest"], form)
    return f"{format(values['median'], form):>10s}  ({low} to {high})"


def show(report: dict[str, Any]) -> None:
    print("\nrates                                  median  (slowest to fastest round)")
    for name, row in report["results"].items():
        if "skipped" in row:
            print(f"{name:34s} skipped: {row['skipped']}")
            continue
        against = row.get("ratio_to_python_sqlite3")
        more = f"  x {against:.2f} of Python sqlite3" if against else ""
        print(f"{name:34s} {between(row['rate'], ',.0f')} {row['unit']}/s{more}")
    print("\nratios within a round")
    for name, row in report["ratios"].items():
        print(f"{name:48s} {between(row, '.2f')}")
    if report["scale"]:
        print("\nqueries in one batch, microseconds a query, two threads")
        for row in report["scale"]:
            cost = between(row["microseconds_per_query"], ".1f")
            print(f"{row['queries']:>10,} {cost}  peak memory {row['peak_memory_mib']:,} MiB")
    print(f"\nself-play: {report['questions']:,} questions x {CANDIDATES} answers, 60 % repeats")
    for row in report["self_play"]:
        print(
            f"{row['spared']:30s} batch {row['batch']} "
            f"{between(row['candidates_per_second'], ',.0f')} answers/s, "
            f"x {row['times_faster']['median']:.2f}"
        )
        print("    " + ", ".join(f"{key} {value:,}" for key, value in row["counters"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SPFT_DATA", default)))
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--questions", type=int, default=7_000, help="of the self-play workload")
    parser.add_argument(
        "--scale",
        type=int,
        nargs="*",
        metavar="N",
        help="also batches of N queries (without N: 1 thousand to 1 million; minutes, 2 GB)",
    )
    parser.add_argument("--output", type=Path, help="write the results here as JSON")
    options = parser.parse_args()
    if not (options.data / "spider" / "dev.json").exists():
        sys.exit(f"No Spider below {options.data}: name its folder with --data or SPFT_DATA.")
    load_before = os.getloadavg()

    # The executors come first: they set up the SQLite inside apsw before anything else opens it.
    executors = {n: Executor(threads=n, gold_cache_bytes=0) for n in THREADS}
    dev, train = (
        [
            gold
            for gold, outcome in zip(golds, executors[1].execute(golds), strict=True)
            if outcome.ran
        ]
        for golds in (load(options.data, name) for name in ("dev.json", "train_spider.json"))
    )
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        bare = BareLoop([path for path, _ in dev], folder)
        for n, executor in executors.items():
            label = f"{n} thread{'s' if n > 1 else ''}"
            verify = timed(f"verify, {label}", verifying(executor))
            entries += [
                Entry(f"verify, {label}", "pairs", verify),
                Entry(f"execute, {label}", "queries", executing(executor)),
                Entry(f"bare loop, {label}", "queries", bare.on_threads(n)),
            ]
        workers = THREADS[-1]
        pools: list[Any] = [SqliteProcesses(workers), ApswThreads(workers)]
        peers = [
            ("python sqlite3, 1 thread", python_sqlite, 1),
            (f"python sqlite3, {workers} processes", pools[0], 1),
            (f"apsw, {workers} threads", pools[1], 1),
        ]
        skipped = {}
        bird = f"func_timeout, {workers} processes"
        if reason := BirdMechanism.missing():
            skipped[bird] = reason
        else:
            pools.append(BirdMechanism(workers))
            peers.append((bird, pools[-1], SLOW_SHARE))
        entries += [Entry(name, "pairs", timed(name, run), share) for name, run, share in peers]
        rates = rounds_of(entries, dev, options.pairs, options.rounds)
        for closing in (bare, *executors.values(), *pools):
            closing.close()

    base = rates["python sqlite3, 1 thread"]
    results: dict[str, dict[str, Any]] = {}
    for entry in entries:
        row: dict[str, Any] = {"unit": entry.unit, "rate": spread(rates[entry.name])}
        if entry.unit == "pairs":
            against = statistics.median(ratio(rates[entry.name], base))
            row["ratio_to_python_sqlite3"] = round(against, 2)
        results[entry.name] = row
    results |= {name: {"skipped": reason} for name, reason in skipped.items()}
    sizes = SCALE if options.scale == [] else options.scale or []
    report = {
        "what": "Spider dev, gold against gold, all texts distinct, caches off",
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load_average_before": load_before,
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "apsw": apsw.apsw_version(),
            "sqlite_in_apsw": apsw.sqlite_lib_version(),
            "sqlite_in_python": sqlite3.sqlite_version,
        },
        "golds": len(dev),
        "pairs_per_round": options.pairs,
        "rounds": options.rounds,
        "results": results,
        "ratios": ratios(rates),
        "scale": scale(dev, sizes, min(3, options.rounds)) if sizes else [],
        "questions": options.questions,
        "self_play": self_play(train, options.questions, min(3, options.rounds)),
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    show(report)


if __name__ == "__main__":
    main()
