"""Times `python -m spftcore.evaluate --predictions` and its parts on a benchmark.

    python bench/evaluate.py --questions FILE --databases DIR [--output FILE]

The answers: of every three questions one has its gold, one the gold of the next question on its
database, one its gold with a comparison, limit or aggregate changed. Measured: the command in
processes of their own, with and without the probes for ties; starting up and importing alone; the
parts within one process; and the same golds and answers run by Python's `sqlite3` in one thread
and compared once (sets of rows, as BIRD does), with nothing else done.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from spftcore.benchmarks import Benchmark, read_benchmark
from spftcore.metrics.evaluation import Judging, evaluate
from spftcore.metrics.features import features
from spftcore.metrics.hardness import hardness
from spftcore.metrics.predictions import read_answers
from spftcore.metrics.scoring import default_metrics
from spftcore.metrics.summary import summarise

CHANGES = ((" > ", " < "), ("LIMIT 1", "LIMIT 2"), ("count(*)", "1"), ("avg(", "sum("))


def written_answers(benchmark: Benchmark) -> list[str]:
    """One answer per question, a third of them its gold."""
    following: dict[str, str] = {}
    answers = []
    for question in reversed(benchmark.questions):
        kind = question.number % 3
        sql = question.gold
        if kind == 1:
            sql = following.get(question.database, question.gold)
        elif kind == 2:
            sql = next((sql.replace(a, b) for a, b in CHANGES if a in sql), sql)
        following[question.database] = question.gold
        answers.append(" ".join(sql.split()))
    return answers[::-1]


def timed(function: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and range of the seconds of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {
        "median seconds": round(statistics.median(seconds), 3),
        "least": round(min(seconds), 3),
        "most": round(max(seconds), 3),
    }


def plain(benchmark: Benchmark, answers: list[str]) -> int:
    """Golds and answers by Python's sqlite3, in the order of the questions; how many are right."""
    right = 0
    connections = {
        name: sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        for name, path in benchmark.databases.items()
    }
    for question, answer in zip(benchmark.questions, answers, strict=True):
        if question.database in connections:
            connection = connections[question.database]
            expected = set(connection.execute(question.gold).fetchall())
            try:
                right += set(connection.execute(answer).fetchall()) == expected
            except sqlite3.Error:
                continue
    for connection in connections.values():
        connection.close()
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("bench/results/evaluate.json"))
    args = parser.parse_args()
    benchmark = read_benchmark(args.questions, args.databases)
    answers = written_answers(benchmark)
    judging = Judging(default_metrics(benchmark, None))
    unprobed = Judging(judging.metrics, stability=False)
    with tempfile.TemporaryDirectory() as folder:
        predictions = Path(folder) / "predictions.txt"
        predictions.write_text("\n".join(answers) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "spftcore.evaluate", str(args.questions)]
        command += ["--databases", str(args.databases), "--predictions", str(predictions)]
        command += ["--output", str(Path(folder) / "out")]

        def process(*arguments: str) -> Callable[[], Any]:
            return lambda: subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)

        read = read_answers(predictions, benchmark).answers
        evaluation = evaluate(benchmark, read, judging)
        report = {
            "date": datetime.date.today().isoformat(),
            "command": "python " + shlex.join(sys.argv),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), "apsw": apsw.apsw_version()},
            "questions": len(benchmark.questions),
            "judged": evaluation.summary.counted,
            "right": {name: one.right for name, one in evaluation.summary.metrics.items()},
            "whole command": timed(process(*command), args.repeats),
            "whole command, ties not probed": timed(
                process(*command, "--no-stability"), args.repeats
            ),
            "start-up and imports": timed(
                process(sys.executable, "-c", "import spftcore.evaluate"), args.repeats
            ),
            "start-up of Python alone": timed(process(sys.executable, "-c", ""), args.repeats),
            "within one process": {
                "reading questions and predictions": timed(
                    lambda: read_answers(
                        predictions, read_benchmark(args.questions, args.databases)
                    ),
                    args.repeats,
                ),
                "judging": timed(lambda: evaluate(benchmark, read, unprobed), args.repeats),
                "judging and probing": timed(
                    lambda: evaluate(benchmark, read, judging), args.repeats
                ),
                "hardness and clauses": timed(
                    lambda: [
                        (hardness.__wrapped__(q.gold), features(q.gold))
                        for q in benchmark.questions
                    ],
                    args.repeats,
                ),
                "summing up": timed(lambda: summarise(evaluation.scored), args.repeats),
            },
            "Python's sqlite3, one comparison": timed(
                lambda: plain(benchmark, answers), args.repeats
            ),
        }
    text = json.dumps(report, indent=2) + "\n"
    args.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
