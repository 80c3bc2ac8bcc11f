"""Pairs per second of the executor on Spider dev, against Python's sqlite3 in the same run.

    python bench/executor.py --data ../shared/data --output bench/results/executor.json

A pair is a gold query against a copy of itself. All texts are made distinct by a comment and the
cache of golds is off, so both sides of every pair are compiled, executed and compared. The peers
take turns within each round, so that a busy machine disturbs all of them alike.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import sqlite3
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from spftcore.verify import Executor, Verdict

Item = tuple[str, str, list[str]]


def load(data: Path, limit: int | None) -> list[tuple[str, str]]:
    """(database file, gold) of Spider dev where the database is there."""
    pairs = json.loads((data / "spider" / "dev.json").read_text(encoding="utf-8"))
    folder = data / "spider" / "database"
    found = [(folder / p["db_id"] / f"{p['db_id']}.sqlite", p["query"]) for p in pairs]
    return [(str(path), sql) for path, sql in found if path.exists()][:limit]


def distinct_items(pairs: list[tuple[str, str]], count: int, round_: int) -> list[Item]:
    """`count` pairs, no text of which occurs twice, in this round or another."""
    items = []
    for i in range(count):
        path, sql = pairs[i % len(pairs)]
        items.append((path, f"{sql} /*{round_}.{i}.g*/", [f"{sql} /*{round_}.{i}.c*/"]))
    return items


def python_sqlite(items: list[Item]) -> int:
    """Connections reused, rows fetched and compared as multisets, no budget and no sandbox."""
    connections: dict[str, sqlite3.Connection] = {}
    right = 0
    for path, gold, candidates in items:
        if path not in connections:
            connections[path] = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            connections[path].text_factory = bytes  # some texts are not UTF-8
        connection = connections[path]
        expected = Counter(connection.execute(gold).fetchall())
        for sql in candidates:
            right += Counter(connection.execute(sql).fetchall()) == expected
    for connection in connections.values():
        connection.close()
    return right


def ours(executor: Executor) -> Callable[[list[Item]], int]:
    def run(items: list[Item]) -> int:
        return sum(j.verdict is Verdict.RIGHT for row in executor.verify(items) for j in row)

    return run


def measure(
    peers: dict[str, Callable[[list[Item]], int]],
    pairs: list[tuple[str, str]],
    count: int,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Rates of each peer over `rounds` rounds after one that warms connections and caches."""
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for round_ in range(rounds + 1):
        for name, run in peers.items():
            items = distinct_items(pairs, count, round_)
            start = time.perf_counter()
            right = run(items)
            seconds = time.perf_counter() - start
            if right != count:
                sys.exit(f"{name}: only {right} of {count} golds equal themselves")
            if round_ > 0:
                rates[name].append(count / seconds)
    return {
        name: {
            "pairs_per_second": round(statistics.median(values), 1),
            "slowest_round": round(min(values), 1),
            "fastest_round": round(max(values), 1),
        }
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SPFT_DATA", default)))
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--output", type=Path, help="write the results here as JSON")
    options = parser.parse_args()
    if not (options.data / "spider" / "dev.json").exists():
        sys.exit(f"No Spider below {options.data}: name its folder with --data or SPFT_DATA.")
    pairs = load(options.data, None)

    executors = {n: Executor(threads=n, gold_cache_bytes=0) for n in options.threads}
    peers: dict[str, Callable[[list[Item]], int]] = {
        f"executor, {n} thread{'s' if n > 1 else ''}": ours(one) for n, one in executors.items()
    }
    peers["python sqlite3, reused connections"] = python_sqlite
    results = measure(peers, pairs, options.pairs, options.rounds)
    for one in executors.values():
        one.close()

    base = results["python sqlite3, reused connections"]["pairs_per_second"]
    for name, row in results.items():
        row["ratio_to_python_sqlite3"] = round(row["pairs_per_second"] / base, 2)
        print(
            f"{name:38s} {row['pairs_per_second']:>10,.0f} pairs/s "
            f"({row['slowest_round']:,.0f} to {row['fastest_round']:,.0f})  "
            f"x {row['ratio_to_python_sqlite3']:.2f}"
        )
    if options.output:
        report = {
            "what": "Spider dev, gold against gold, all texts distinct, caches off",
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": len(os.sched_getaffinity(0)),
                "load_average": os.getloadavg(),
                "system": platform.platform(),
            },
            "versions": {
                "python": platform.python_version(),
                "sqlite_in_apsw": apsw.sqlite_lib_version(),
                "sqlite_in_python": sqlite3.sqlite_version,
            },
            "golds": len(pairs),
            "pairs_per_round": options.pairs,
            "rounds": options.rounds,
            "results": results,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
