"""Times the synthesis of SQL and counts what extraction and its checks do on real pairs.

    python bench/synthesis.py --databases DIR --pairs FILE --count 10000 [--output FILE]

Its parts: the catalogue (seconds); extraction (share of the golds that run which give a template,
and which come back with the gold's rows when the template is filled with their own names and
values, failures by cause), of further benchmarks too with --also; synthesis (kept queries per
second, rejections by cause, time by phase, share of each clause against the pairs', tables used);
the same with a mix of difficulties, and without pairs from the built-in library; the cost per
query from one database to all of them; and, with --long, from 1,000 queries to 100,000, in
seconds of processor time so that other work on the machine counts less.
"""

import argparse
import datetime
import json
import os
import platform
import random
import re
import resource
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import sqlglot

from spftcore.databases import Catalogue, Database
from spftcore.metrics.hardness import Hardness
from spftcore.synthesis import (
    FillError,
    TemplateError,
    TemplatePool,
    canonical,
    extract_bound,
    render,
    synthesize_sql,
)
from spftcore.verify import Executor, Stability, Verdict
from spftcore.verify.results import Outcomes

CLAUSES = {
    "join": r"\bjoin\b",
    "where": r"\bwhere\b",
    "group by": r"\bgroup by\b",
    "having": r"\bhaving\b",
    "order by": r"\border by\b",
    "limit": r"\blimit\b",
    "distinct": r"\bdistinct\b",
    "nested": r"\(select\b",
    "set operation": r"\b(union|intersect|except)\b",
    "like": r"\blike\b",
    "between": r"\bbetween\b",
    "or": r"\bor\b",
}

LONG = (
    "kept",
    "draws",
    "unique share",
    "processor milliseconds per kept query",
    "tables used",
    "peak memory, MiB",
)


def read_pairs(path: Path, catalogue: Catalogue) -> list[tuple[Database, str]]:
    """(database, SQL) of every pair whose database is there."""
    records = json.loads(path.read_text())
    keys = (("db_id", "database"), ("query", "SQL", "sql"))
    pairs = [tuple(next(r[k] for k in names if k in r) for names in keys) for r in records]
    return [(catalogue[name], sql) for name, sql in pairs if name in catalogue]


def measure_extraction(
    pairs: list[tuple[Database, str]], executor: Executor
) -> tuple[TemplatePool, dict[str, Any]]:
    """Templates of all pairs, and how many golds survive the way there and back."""
    pool = TemplatePool()
    causes: Counter[str] = Counter()
    examples: dict[str, str] = {}
    items = []
    outcomes = executor.execute([(database.path, sql) for database, sql in pairs])
    running = [pair for pair, outcome in zip(pairs, outcomes, strict=True) if outcome.ran]
    start = time.perf_counter()
    for database, sql in running:
        try:
            template, binding = extract_bound(sql, database)
            again = render(template.compiled, binding, database)
        except (TemplateError, FillError) as error:
            causes[error.cause] += 1
            examples.setdefault(error.cause, sql)
            continue
        pool.add(template, "pairs")
        items.append((database.path, sql, [again]))
    seconds = time.perf_counter() - start
    judgements = [judged for (judged,) in executor.verify(items)]
    for item, judged in zip(items, judgements, strict=True):
        if judged.verdict is not Verdict.RIGHT:
            cause = f"own filling: {judged.reason}"
            causes[cause] += 1
            examples.setdefault(cause, item[1])
    same = sum(judged.verdict is Verdict.RIGHT for judged in judgements)
    return pool, {
        "pairs": len(pairs),
        "golds that run": len(running),
        "extracted": len(items),
        "extracted share": round(len(items) / len(running), 4),
        "own filling right": same,
        "own filling right share": round(same / len(running), 4),
        "templates": len(pool),
        "extractions per second": round(len(running) / seconds),
        "failures": dict(causes),
        "failure examples": examples,
    }


def clause_shares(queries: list[str]) -> dict[str, float]:
    """Percent of queries with each clause."""
    return {
        name: round(100 * sum(bool(re.search(p, q, re.I)) for q in queries) / len(queries), 1)
        for name, p in CLAUSES.items()
    }


def measure_synthesis(
    pool: TemplatePool,
    databases: list[Database],
    executor: Executor,
    count: int,
    pairs: list[str],
    mix: dict[Hardness, float] | None = None,
) -> dict[str, Any]:
    """One synthesis, with its rejections and what it covers."""
    timed = _TimedExecutor(executor)
    processor = time.process_time()
    start = time.perf_counter()
    result = synthesize_sql(pool, databases, timed, count, random.Random(0), mix=mix)
    seconds = time.perf_counter() - start
    processor = time.process_time() - processor
    queries = [query.sql for query in result.queries]
    by_id = {database.id: database for database in databases}
    forms = {(q.database, canonical(q.sql, by_id[q.database])) for q in result.queries}
    return {
        "databases": len(databases),
        "kept": len(queries),
        "draws": result.draws,
        "seconds": round(seconds, 2),
        "kept per second": round(len(queries) / seconds),
        "seconds in the executor": {key: round(s, 2) for key, s in timed.seconds.items()},
        "processor seconds": round(processor, 2),
        "processor milliseconds per kept query": round(1000 * processor / max(1, len(queries)), 2),
        "unique share": round(len(forms) / max(1, len(queries)), 4),
        "rejections": dict(result.rejections.most_common()),
        "clauses, percent": clause_shares(queries),
        "clauses of the pairs, percent": clause_shares(pairs),
        "difficulties": dict(result.difficulties.most_common()),
        "templates used": result.templates_used,
        "tables with rows": result.tables,
        "tables used": result.tables_used,
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


class _TimedExecutor:
    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.seconds = {"execute": 0.0, "stable": 0.0}

    def execute(self, queries: Sequence[tuple[Path, str]]) -> Outcomes:
        start = time.perf_counter()
        try:
            return self.executor.execute(queries)
        finally:
            self.seconds["execute"] += time.perf_counter() - start

    def stable(self, queries: Sequence[tuple[Path, str]]) -> list[Stability]:
        start = time.perf_counter()
        try:
            return self.executor.stable(queries)
        finally:
            self.seconds["stable"] += time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument(
        "--also", type=Path, nargs=2, action="append", default=[], metavar=("DATABASES", "PAIRS")
    )
    parser.add_argument("--long", action="store_true", help="also 1,000 to 100,000 queries")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("bench/results/synthesis.json"))
    args = parser.parse_args()

    start = time.perf_counter()
    catalogue = Catalogue.open(args.databases)
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "sqlglot": sqlglot.__version__,
            "apsw": apsw.apsw_version(),
        },
        "catalogue": {
            "databases": len(catalogue),
            "seconds": round(time.perf_counter() - start, 2),
        },
    }
    with Executor(threads=args.threads) as executor:
        pairs = read_pairs(args.pairs, catalogue)
        pool, report["extraction"] = measure_extraction(pairs, executor)
        texts = [sql for _, sql in pairs]
        databases = [db for db in catalogue.values() if any(t.rows for t in db.tables)]
        report["synthesis"] = measure_synthesis(pool, databases, executor, args.count, texts)
        report["extraction of others"] = {
            str(path): measure_extraction(read_pairs(path, Catalogue.open(folder)), executor)[1]
            for folder, path in args.also
        }
        mix: dict[Hardness, float] = {"easy": 0.25, "medium": 0.25, "hard": 0.25, "extra": 0.25}
        mixed = measure_synthesis(pool, databases, executor, args.count // 4, texts, mix)
        library = TemplatePool.builtin()
        alone = measure_synthesis(library, databases, executor, args.count // 4, texts)
        brief = ("kept", "seconds", "kept per second", "difficulties", "tables used", "rejections")
        report["a quarter of each difficulty"] = {key: mixed[key] for key in brief}
        report["built-in library"] = {"templates": len(library)} | {k: alone[k] for k in brief}
        if args.long:
            report["queries"] = []
            for size in (1_000, 10_000, 30_000, 100_000):
                part = measure_synthesis(pool, databases, executor, size, texts)
                report["queries"].append({key: part[key] for key in LONG})
                print(report["queries"][-1], flush=True)
        report["scaling"] = []
        for size in sorted({1, 10, 50, len(databases)} & set(range(len(databases) + 1))):
            part = measure_synthesis(pool, databases[-size:], executor, 50 * size + 150, texts)
            report["scaling"].append(
                {key: part[key] for key in ("databases", "kept", "seconds", "kept per second")}
                | {"seconds per 1,000": round(1000 * part["seconds"] / max(1, part["kept"]), 2)}
            )
    print(json.dumps(report, indent=2, ensure_ascii=False))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
