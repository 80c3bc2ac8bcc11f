"""Spider's golds whose result the data do not determine, by cause, and the queries per second.

    python bench/stability.py --data ../shared/data --output bench/results/stability.json

Each split is judged `--repeats` times by a fresh executor; the median of the seconds counts. Plain
execution of the same queries in the same run, turn by turn, says what the probes cost. Then every
gold called stable, also those that needed no probe, is run on reordered copies of its database.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import apsw

from spftcore.verify import Executor
from spftcore.verify.stability import stable
from spftcore.verify.stability_copies import reordered_copies

SPLITS = {"dev": "dev.json", "train": "train_spider.json"}


def load(data: Path, name: str) -> tuple[list[tuple[str, str]], int]:
    """(database file, gold) where the database is there, and how many were left out."""
    pairs = json.loads((data / "spider" / name).read_text(encoding="utf-8"))
    folder = data / "spider" / "database"
    found = [(folder / p["db_id"] / f"{p['db_id']}.sqlite", p["query"]) for p in pairs]
    here = [(str(path), sql) for path, sql in found if path.exists()]
    return here, len(pairs) - len(here)


def judge(queries: list[tuple[str, str]], repeats: int, threads: int) -> dict[str, Any]:
    """Counts by verdict and cause, and median seconds with and without probes."""
    probing, plain = [], []
    causes: Counter[str] = Counter()
    executed = 0
    for _ in range(repeats):
        with Executor(threads=threads) as executor:
            begun = time.perf_counter()
            executor.execute(queries)
            plain.append(time.perf_counter() - begun)
        with Executor(threads=threads) as executor:
            begun = time.perf_counter()
            results = stable(executor, queries)
            probing.append(time.perf_counter() - begun)
            executed = executor.counters["executed"]
        names = {True: "stable", None: "unknown"}
        causes = Counter(names.get(r.verdict) or r.cause for r in results)
    seconds = statistics.median(probing)
    return {
        "queries": len(queries),
        "distinct": len(set(queries)),
        "counts": dict(causes.most_common()),
        "executed": executed,
        "seconds": round(seconds, 3),
        "seconds_plain": round(statistics.median(plain), 3),
        "queries_per_second": round(len(queries) / seconds),
    }


def missed(queries: list[tuple[str, str]], threads: int) -> tuple[int, list[str]]:
    """Golds called stable, probed or not, that give another bag on a copy with other row orders.

    Returns how many were run on every copy, and the texts of those that differ.
    """
    judged: dict[str, list[str]] = defaultdict(list)
    ran, differing = 0, set()
    with Executor(threads=threads) as executor:
        distinct = sorted(set(queries))
        for (database, sql), result in zip(distinct, stable(executor, distinct), strict=True):
            if result.verdict:
                judged[database].append(sql)
        for database, texts in judged.items():
            _, rows = executor.rows(database, "SELECT lower(name) FROM sqlite_master")
            with reordered_copies(executor, database, frozenset(n for (n,) in rows)) as copies:
                files = [database, *map(str, copies)]
                jobs = [(file, sql) for sql in texts for file in files]
                outcomes = executor.execute(jobs)
            for i, sql in enumerate(texts):
                own = outcomes[i * len(files) : (i + 1) * len(files)]
                ran += all(outcome.ran for outcome in own)
                if len({outcome.fingerprint for outcome in own if outcome.ran}) > 1:
                    differing.add(sql)
    return ran, sorted(differing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {}
    for split, name in SPLITS.items():
        queries, left_out = load(arguments.data, name)
        report[split] = judge(queries, arguments.repeats, arguments.threads)
        report[split]["database_missing"] = left_out
        row = report[split]
        print(f"{split}: {row['queries']:,} golds, {left_out} left out (database missing)")
        for cause, number in row["counts"].items():
            print(f"  {cause:<14} {number:>6,}")
        print(
            f"  {row['seconds']:.2f} s, {row['queries_per_second']:,} queries/s; "
            f"{row['executed']:,} executions of {row['distinct']:,} distinct queries; "
            f"plain execution {row['seconds_plain']:.2f} s"
        )
        ran, differing = missed(queries, arguments.threads)
        row["stable_on_copies"], row["missed"] = ran, differing
        print(
            f"  {ran:,} distinct stable golds run on five reordered copies, {len(differing)} differ"
        )
        print("".join(f"    {sql}\n" for sql in differing), end="")
    if arguments.output:
        report["command"] = shlex.join(["python", *sys.argv])
        report["date"] = datetime.date.today().isoformat()
        report["machine"] = {
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
        }
        report["versions"] = {
            "python": platform.python_version(),
            "sqlite": apsw.sqlite_lib_version(),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
