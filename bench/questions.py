"""Counts what the verbaliser says of real and synthesized queries, and what it confuses.

    python bench/questions.py --spider DIR [--bird DIR] --count 2000 [--output FILE]

Coverage: share of the different gold queries of each file, and of queries synthesized from
Spider's train pairs, that get a question; how many of these by the fluent words and how many clause
by clause. Faithfulness: every first-order mutant (one operator, column, literal, direction, …
changed) of Spider's dev golds and of synthesized queries whose result differs from the query's; the
share that gets the same question from the same random state, and in any of six states, by kind of
change.
"""

import argparse
import datetime
import json
import os
import platform
import random
import shlex
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import sqlglot

from spftcore.databases import Catalogue, Database
from spftcore.errors import SpftError
from spftcore.synthesis import TemplateError, TemplatePool, canonical, extract, synthesize_sql
from spftcore.synthesis.resolve import ResolveError
from spftcore.synthesis.sql_text import UNREADABLE, styled
from spftcore.synthesis.verbalise import fluent_question, verbalise
from spftcore.verify import Executor
from spftcore.verify.families.golds import read_gold
from spftcore.verify.families.mutants import mutants
from spftcore.verify.families.schema import read_schema
from spftcore.verify.families.values import value_space

STATES = 6  # random states in which a query and its mutants are put into words
Queries = list[tuple[Database, str]]


def golds(path: Path, catalogue: Catalogue) -> Queries:
    """The different gold queries of a file whose databases are there."""
    found: dict[tuple[str, str], None] = {}
    for record in json.loads(path.read_text()):
        if record["db_id"] in catalogue:
            found[record["db_id"], record.get("query") or record["SQL"]] = None
    return [(catalogue[name], sql) for name, sql in found]


def measure_coverage(queries: Queries) -> dict[str, Any]:
    """How many queries get a question, and the causes where none is written."""
    counts: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    examples: dict[str, str] = {}
    start = time.perf_counter()
    for number, (database, sql) in enumerate(queries):
        text = verbalise(sql, database, random.Random(number))
        counts["said"] += text is not None
        if text is None:
            try:
                styled(sql, database)
                cause = "not said"
            except UNREADABLE as error:
                cause = error.cause if isinstance(error, ResolveError) else type(error).__name__
            causes[cause] += 1
            examples.setdefault(cause, sql)
    seconds = time.perf_counter() - start
    for database, sql in queries:
        try:
            resolved = styled(sql, database)
        except UNREADABLE:
            continue
        counts["fluent"] += fluent_question(resolved, database, random.Random(0)) is not None
    return {
        "queries": len(queries),
        "said": counts["said"],
        "said share": round(counts["said"] / len(queries), 4),
        "by the fluent words": counts["fluent"],
        "milliseconds each": round(1000 * seconds / len(queries), 2),
        "not said": dict(causes),
        "examples": examples,
    }


def measure_confusion(queries: Queries, executor: Executor, show: int) -> dict[str, Any]:
    """Mutants with another result that get the question of their query."""
    by_database: dict[str, Queries] = defaultdict(list)
    for database, sql in queries:
        by_database[database.id].append((database, sql))
    counts: Counter[str] = Counter()
    same: Counter[str] = Counter()  # from equal states
    ever: Counter[str] = Counter()  # from any two of the states
    examples = []
    for group in by_database.values():
        database = group[0][0]
        schema = read_schema(database.path)
        read = []
        for _, sql in group:
            try:
                read.append(read_gold(sql, schema))
            except SpftError:
                continue
        space = value_space(schema, read)
        changed = [(g.sql, m) for g in read for m in mutants(g, schema, space)]
        items = [(database.path, sql, [m.sql]) for sql, m in changed]
        for (sql, mutant), (judged,) in zip(changed, executor.verify(items), strict=True):
            if not judged.candidate.ran or judged.verdict.name != "WRONG":
                continue
            if canonical(sql, database) == canonical(mutant.sql, database):
                continue
            texts = [
                [verbalise(s, database, random.Random(state)) for state in range(STATES)]
                for s in (sql, mutant.sql)
            ]
            if None in texts[0] + texts[1]:
                counts["not said"] += 1
                continue
            counts[mutant.kind] += 1
            same[mutant.kind] += any(a == b for a, b in zip(*texts, strict=True))
            shared = set(texts[0]) & set(texts[1])
            ever[mutant.kind] += bool(shared)
            if shared:
                examples.append((mutant.kind, sql, mutant.sql, min(map(str, shared))))
    random.Random(0).shuffle(examples)
    for kind, sql, other, text in examples[:show]:
        print(f"[{kind}] {sql}\n  {other}\n  = {text}", file=sys.stderr)
    total = sum(counts.values()) - counts["not said"]
    return {
        "mutants": total,
        "same question": sum(same.values()),
        "same share": round(sum(same.values()) / total, 5),
        "same from other states": sum(ever.values()),
        "by kind": {k: f"{ever[k]} of {n}" for k, n in counts.most_common() if k != "not said"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spider", type=Path, required=True, help="Spider's folder")
    parser.add_argument("--bird", type=Path, help="BIRD's folder (dev.json, dev_databases)")
    parser.add_argument("--count", type=int, default=2000, help="queries to synthesize")
    parser.add_argument(
        "--mutants-of", type=int, default=400, help="queries whose mutants are read"
    )
    parser.add_argument("--show", type=int, default=0, help="confused mutants to print")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    catalogue = Catalogue.open(arguments.spider / "database")
    train = golds(arguments.spider / "train_spider.json", catalogue)
    dev = golds(arguments.spider / "dev.json", catalogue)
    corpora = {"Spider train": train, "Spider dev": dev}
    if arguments.bird:
        bird = Catalogue.open(arguments.bird / "dev_databases")
        corpora["BIRD superhero"] = golds(arguments.bird / "dev.json", bird)
    pool = TemplatePool()
    for database, sql in train:
        try:
            pool.add(extract(sql, database), "seed")
        except TemplateError:
            continue
    with Executor() as executor:
        databases = [catalogue[name] for name in sorted({d.id for d, _ in train})]
        made = synthesize_sql(pool, databases, executor, arguments.count, random.Random(0)).queries
        corpora["synthesized"] = [(catalogue[q.database], q.sql) for q in made]
        coverage = {name: measure_coverage(queries) for name, queries in corpora.items()}
        chosen = random.Random(0)
        confusion = {}
        for name in ("Spider dev", "synthesized"):
            queries = corpora[name]
            some = chosen.sample(queries, min(arguments.mutants_of, len(queries)))
            confusion[name] = measure_confusion(some, executor, arguments.show)
    record = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start",
        "versions": {"python": platform.python_version(), "sqlglot": sqlglot.__version__},
        "coverage": coverage,
        "confusion": confusion,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
