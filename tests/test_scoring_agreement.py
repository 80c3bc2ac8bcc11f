"""Scores of whole evaluations against the official rules in plain Python, on Spider and BIRD."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import official_rules as official
import pytest
from official_rules import Database, DidNotEnd, SameSqlite
from test_executor_agreement import mutants

from spftcore.benchmarks import Benchmark, Question, read_benchmark
from spftcore.metrics.predictions import Answer
from spftcore.metrics.scoring import Metric, score
from spftcore.verify import Executor

METRICS: tuple[Metric, ...] = ("spider", "bird", "soft_f1")


def predictions(question: Question, others: list[str], rng: random.Random) -> Iterator[str]:
    """What systems write: the gold, slips of it, another question's gold, nothing."""
    yield question.gold
    yield from mutants(question.gold)
    yield rng.choice(others)
    yield re.sub(r"\b(GROUP BY|ORDER BY|LIMIT)\b.*", "", question.gold, flags=re.I | re.S)
    yield f"SELECT * FROM ({question.gold.rstrip('; ')}) ORDER BY 1 DESC"
    yield f"SELECT DISTINCT * FROM ({question.gold.rstrip('; ')})"
    yield f"{question.gold.rstrip('; ')} LIMIT 1"
    yield ""


def on_these(benchmark: Benchmark, databases: set[str], every: int = 1) -> Benchmark:
    chosen = [q for q in benchmark.questions if q.database in databases][::every]
    renumbered = [replace(q, number=n) for n, q in enumerate(chosen, 1)]
    return replace(benchmark, questions=tuple(renumbered))


def check(benchmark: Benchmark, rounds: int) -> Counter[str]:
    """Compares every score of `rounds` evaluations; the counts tell what was compared."""
    rng = random.Random(7)
    golds: dict[str, list[str]] = {}
    for question in benchmark.questions:
        golds.setdefault(question.database, []).append(question.gold)
    written = [
        list(dict.fromkeys(predictions(q, golds[q.database], rng))) for q in benchmark.questions
    ]
    files = {name: Database(benchmark.databases[name]) for name in golds}
    seen: Counter[str] = Counter()
    with Executor() as executor:
        for _ in range(rounds):
            answers = [Answer(texts.pop(rng.randrange(len(texts)))) for texts in written]
            scored = score(benchmark, answers, executor, METRICS, stability=False)
            for question, one in zip(benchmark.questions, scored, strict=True):
                place = f"{one.database}: {one.gold} | {one.sql}"
                database = files[one.database]
                for metric in METRICS:
                    try:
                        wanted = getattr(official, metric)(database, question.gold, one.sql)
                    except DidNotEnd:
                        seen["undecided"] += 1
                        continue
                    if wanted is None:
                        assert one.excluded or metric not in one.scores, place
                        seen["gold fails"] += 1
                        continue
                    assert not one.excluded, place
                    if abs(one.scores[metric] - wanted) > 1e-6:
                        seen["another SQLite"] += 1
                        same = SameSqlite(database.path)
                        wanted = getattr(official, metric)(same, question.gold, one.sql)
                        same.close()
                    assert one.scores[metric] == pytest.approx(float(wanted), abs=1e-6), place
                    seen[f"{metric} {'right' if wanted == 1 else 'wrong'}"] += 1
    for database in files.values():
        database.close()
    return seen


def spider(data: Path, name: str) -> Benchmark:
    benchmark = read_benchmark(data / "spider" / name)
    return on_these(benchmark, set(benchmark.databases))


def test_a_sample_of_spider_dev(data: Path) -> None:
    benchmark = spider(data, "dev.json")
    few = {"concert_singer", "car_1", "tvshow", "dog_kennels", "voter_1", "museum_visit"}
    seen = check(on_these(benchmark, few), rounds=2)
    assert seen["undecided"] == 0
    assert seen["another SQLite"] < 0.01 * seen.total()
    assert min(seen[f"{m} {v}"] for m in METRICS for v in ("right", "wrong")) > 20


def test_a_sample_of_bird(data: Path) -> None:
    benchmark = read_benchmark(data / "bird" / "dev.json")
    seen = check(on_these(benchmark, {"superhero"}, every=4), rounds=3)
    assert seen["undecided"] < 0.1 * seen.total()
    assert min(seen[f"{m} {v}"] for m in METRICS for v in ("right", "wrong")) > 20


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["dev.json", "train_spider.json"])
def test_all_of_spider(data: Path, name: str) -> None:
    seen = check(spider(data, name), rounds=6)
    assert seen["undecided"] < 0.002 * seen.total()
    assert seen["another SQLite"] < 0.005 * seen.total()
    assert min(seen[f"{m} {v}"] for m in METRICS for v in ("right", "wrong")) > 1000


@pytest.mark.heavy
def test_all_of_bird(data: Path) -> None:
    seen = check(read_benchmark(data / "bird" / "dev.json"), rounds=6)
    assert min(seen[f"{m} {v}"] for m in METRICS for v in ("right", "wrong")) > 100
