"""What greedy answers, votes over samples and second tries gain on a run's development questions.

    python bench/inference.py --model runs/demo [--temperatures 0.3,0.6,0.8,1.0] [--output FILE]

Each strategy answers the same questions with the model in memory; accuracy is by execution (`bag`),
with Wilson's interval and McNemar's exact test against the greedy answers. Votes may be drawn with
several seeds: `right` lists each, and interval and test are of the first. Seconds are wall-clock
per question, execution included. The test questions are not looked at.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers

from spftcore.databases import Catalogue
from spftcore.errors import SpftError
from spftcore.inference.answering import Answered, Question
from spftcore.inference.opening import ModelSource, OpenModel
from spftcore.inference.strategies import Strategy
from spftcore.metrics.statistics import accuracy, mcnemar
from spftcore.pairs import Pair
from spftcore.store import Store
from spftcore.verify import Executor, Verdict


def strategies(temperature: float) -> dict[str, Strategy]:
    """What is compared, by name; the greedy answer first."""
    vote = f"vote of {{}} at {temperature}"
    return {
        "greedy": Strategy(),
        "greedy, repair errors": Strategy(repair="errors"),
        "greedy, repair empty": Strategy(repair="empty"),
        vote.format(4): Strategy(samples=4, temperature=temperature),
        vote.format(8): Strategy(samples=8, temperature=temperature),
        vote.format(8) + ", repair empty": Strategy(8, temperature, "empty"),
    }


def answers(
    model: OpenModel, catalogue: Catalogue, pairs: list[Pair], strategy: Strategy
) -> tuple[list[Answered], float]:
    """The answers in the order of the pairs, and the seconds for all."""
    questions = [Question(p.id, p.database, p.question, p.evidence) for p in pairs]
    with model.answerer(catalogue, strategy, threads=1) as answerer:
        start = time.perf_counter()
        found = {a.question.id: a for a in answerer.answers(questions)}
        seconds = time.perf_counter() - start
    return [found[pair.id] for pair in pairs], seconds


def judge(catalogue: Catalogue, pairs: list[Pair], found: list[Answered]) -> list[bool]:
    """Which answers are right."""
    items = [
        (catalogue[pair.database].path, pair.sql, [answered.sql])
        for pair, answered in zip(pairs, found, strict=True)
    ]
    with Executor() as executor:
        return [bool(v == Verdict.RIGHT) for v in executor.verify(items).verdict]


def measure(
    model: OpenModel, catalogue: Catalogue, pairs: list[Pair], strategy: Strategy, seeds: int
) -> tuple[dict[str, Any], list[bool]]:
    """Figures of a strategy, and which answers of its first seed are right."""
    runs = []
    for seed in range(1, 1 + (seeds if strategy.samples else 1)):
        one = Strategy(strategy.samples, strategy.temperature, strategy.repair, seed)
        found, seconds = answers(model, catalogue, pairs, one)
        runs.append((judge(catalogue, pairs, found), found, seconds))
    right, found, _ = runs[0]
    within = accuracy(right)
    record = {
        "right": [sum(verdicts) for verdicts, _, _ in runs],
        "questions": len(pairs),
        "share": round(mean(sum(verdicts) for verdicts, _, _ in runs) / len(pairs), 4),
        "interval": [round(within.low, 4), round(within.high, 4)],
        "runs": sum(answered.runs for answered in found),
        "seconds per question": round(mean(seconds for _, _, seconds in runs) / len(pairs), 4),
    }
    if strategy.repair != "off":
        tries = [answered.repaired for answered in found if answered.repaired]
        record["second tries"] = len(tries)
        record["second tries taken"] = sum(tried.taken for tried in tries)
    return record, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a finished run")
    parser.add_argument("--candidate")
    parser.add_argument("--temperature", type=float, default=Strategy().temperature)
    parser.add_argument(
        "--temperatures", default="", help="compare votes of 8 at these instead of strategies"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of each vote")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    transformers.logging.disable_progress_bar()
    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    source = ModelSource.find(str(arguments.model), arguments.candidate)
    with closing(Store(arguments.model / "run.sqlite")) as store:
        pairs = store.pairs(stage="prepare", split="dev")
    if not pairs:
        raise SpftError(f"The run {arguments.model} has no development questions.")
    data = source.config.data
    catalogue = Catalogue.from_settings(data, data.databases or arguments.model / "databases")
    model = OpenModel(source)
    answers(model, catalogue, pairs[:8], Strategy())  # warm
    compared = strategies(arguments.temperature)
    if arguments.temperatures:
        compared = {"greedy": Strategy()} | {
            f"vote of 8 at {float(text)}": Strategy(8, float(text))
            for text in arguments.temperatures.split(",")
        }
    results: dict[str, dict[str, Any]] = {}
    greedy: list[bool] = []
    for name, strategy in compared.items():
        results[name], right = measure(model, catalogue, pairs, strategy, arguments.seeds)
        greedy = greedy or right
        if name != "greedy":
            test = mcnemar(right, greedy)
            results[name]["against greedy"] = {
                "gained": test.gained,
                "lost": test.lost,
                "p": round(test.p, 4),
            }
        print(name, json.dumps(results[name]), flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "command": "python " + shlex.join(sys.argv),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start",
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": source.path.name if isinstance(source.path, Path) else source.path,
        "seeds": arguments.seeds,
        "results": results,
    }
    if arguments.output:
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
