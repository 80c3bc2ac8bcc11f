"""What verification on a Ray cluster costs beside the executor on the same cores.

    python bench/cluster.py --data ../shared/data --output bench/results/cluster.json

The cluster is one node on this machine with as many CPUs as are compared. Items are pairs of
Spider's dev golds with a copy of themselves, all texts made distinct by a comment, so that nothing
is answered by a duplicate or from a cache: each item is two queries to run. Local executor and
cluster take turns within each round on fresh texts, each round beginning with the other one, and
ratios are taken within a round. The driver's own work (cutting, sending, merging) has no core of
its own here, as on a laptop; on a cluster it has.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import ray
from executor import distinct_items, load

from spftcore.cluster.connection import connected
from spftcore.cluster.verification import ClusterExecutor
from spftcore.verify import Executor, Item


def seconds(executor: Executor, items: Sequence[Item]) -> float:
    """Wall-clock of one batch, which must be right throughout."""
    begin = time.perf_counter()
    verdicts = executor.verify(items)
    passed = time.perf_counter() - begin
    assert verdicts.right.mean() > 0.99, "a gold differs from itself"
    return passed


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def measure(golds: Any, executors: dict[str, Executor], count: int, rounds: int) -> dict[str, Any]:
    """Seconds of each executor and their ratios to the first one's, round by round."""
    for name, executor in executors.items():
        seconds(executor, distinct_items(golds, 4000, f"warm {name}"))
    taken: dict[str, list[float]] = {name: [] for name in executors}
    for number in range(rounds):
        names = list(executors)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            items = distinct_items(golds, count, f"{number} {name}")
            taken[name].append(seconds(executors[name], items))
    first = next(iter(taken.values()))
    return {
        name: {
            "seconds": spread(values),
            "verifications_per_second": spread([count / value for value in values]),
            "time_ratio_to_first": spread([b / a for a, b in zip(first, values, strict=True)]),
        }
        for name, values in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    golds = load(given.data, "dev.json")
    load_before = os.getloadavg()
    connected("local")
    results = {}
    for cores in (1, 2):
        with (
            Executor(threads=cores) as local,
            ClusterExecutor("local", workers=cores) as cluster,
        ):
            executors = {
                f"local, {cores} threads": local,
                f"cluster, {cores} workers of 1 CPU": cluster,
            }
            results |= measure(golds, executors, given.count, given.rounds)
    for cores in (2,):
        with Executor(threads=cores) as local, ClusterExecutor("local", 1, cores) as cluster:
            executors = {
                f"local, {cores} threads again": local,
                f"cluster, 1 worker of {cores} CPUs": cluster,
            }
            results |= measure(golds, executors, given.count, given.rounds)
    report = {
        "what": "Spider dev, gold against gold, all texts distinct",
        "command": shlex.join(["python", "bench/cluster.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_average_before": load_before,
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "ray": ray.__version__,
            "apsw": apsw.apsw_version(),
        },
        "items": given.count,
        "rounds": given.rounds,
        "results": results,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    ray.shutdown()


if __name__ == "__main__":
    main()
