"""Measures how often the mistake that is named first is the one that was made.

    python bench/mistakes.py --databases DIR --pairs FILE [--also DIR FILE] [--output FILE]

Every gold gets one change of each kind that fits it, at a place drawn by a seed; what still gives
the gold's result is dropped. Counted by kind: how often its class is named first, how often it is
named at all, how many classes are named, and what was named first instead. Then the same golds
written otherwise (aliases, order of joins and conditions, sides, BETWEEN) with one change, golds
against themselves written otherwise (nothing should be found), golds with two changes of different
classes of which each alone would give another result, and the speed.
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

import apsw
import sqlglot
from mistakes_edits import BROKEN, EDITS, NotHere, Replaced, written_otherwise

from spftcore.databases import Catalogue, Database
from spftcore.metrics.records import Scored
from spftcore.mistakes import find_mistakes
from spftcore.mistakes.classify import read
from spftcore.synthesis.sql_text import UNREADABLE, print_sql, styled
from spftcore.verify import Executor, Verdict


def changed(
    golds: list[tuple[Database, str]], otherwise: bool
) -> list[tuple[str, str, Database, str, str]]:
    """(change, class, database, gold, answer)."""
    found = []
    for number, (database, gold) in enumerate(golds):
        try:
            tree = styled(gold, database).tree
            print_sql(tree)
        except UNREADABLE:
            continue
        for name, kind, edit in EDITS:
            draw = random.Random(f"{number} {name}")
            copy = tree.copy()
            try:
                edit(copy, database, draw)
            except NotHere:
                continue
            except Replaced as replaced:
                copy = replaced.args[0]
            try:
                sql = written_otherwise(copy, draw) if otherwise else print_sql(copy)
            except (*UNREADABLE, AttributeError):
                continue
            found.append((name, kind, database, gold, sql))
        if not otherwise:
            draw = random.Random(number)
            name, kind, broken = BROKEN[number % len(BROKEN)]
            found.append((name, kind, database, gold, broken(print_sql(tree), database)))
    return found


def measure(
    cases: list[tuple[str, str, Database, str, str]], executor: Executor
) -> tuple[dict[str, Any], list[Scored]]:
    """Classes named for the changes that give another result."""
    judged = executor.verify([(db.path, gold, [sql]) for _, _, db, gold, sql in cases])
    scored, made = [], []
    broken = {name for name, _, _ in BROKEN}
    for (name, kind, db, gold, sql), (one,) in zip(cases, judged, strict=True):
        ran = one.candidate.ran
        if one.verdict is not Verdict.WRONG or (ran == (name in broken)):
            continue
        scored.append(
            Scored(
                str(len(scored)),
                db.id,
                "",
                gold,
                sql,
                status=one.candidate.status.name.lower(),
                message=one.candidate.message,
                scores={"bag": 0.0},
            )
        )
        made.append((name, kind))
    databases = {db.id: db.path for _, _, db, _, _ in cases}
    start = time.perf_counter()
    explained = find_mistakes(scored, databases, executor)
    seconds = time.perf_counter() - start
    first: dict[str, Counter[str]] = defaultdict(Counter)
    named: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    for (name, kind), one in zip(made, explained, strict=True):
        first[name][one.mistakes[0]] += 1
        named[name] += kind in one.mistakes
        classes[name] += len(one.mistakes)
    kinds = {name: kind for name, kind in made}
    rows = {
        name: {
            "class": kind,
            "answers": (total := sum(first[name].values())),
            "first": round(first[name][kind] / total, 4),
            "named": round(named[name] / total, 4),
            "classes per answer": round(classes[name] / total, 2),
            "instead": dict((first[name] - Counter({kind: total})).most_common(4)),
        }
        for name, kind in kinds.items()
    }
    right = sum(first[name][kind] for name, kind in kinds.items())
    return {
        "answers": len(scored),
        "first": round(right / len(scored), 4),
        "named": round(sum(named.values()) / len(scored), 4),
        "classes per answer": round(sum(classes.values()) / len(scored), 3),
        "seconds per 1,000 answers": round(1000 * seconds / len(scored), 2),
        "by change": rows,
    }, explained


def false_alarms(golds: list[tuple[Database, str]]) -> dict[str, Any]:
    """Golds against themselves, written otherwise: how often a difference is seen."""
    asked, seen = 0, Counter[str]()
    for number, (database, gold) in enumerate(golds):
        try:
            sql = written_otherwise(styled(gold, database).tree, random.Random(number))
            reading = read(gold, sql, database)
        except (*UNREADABLE, AttributeError):
            continue
        asked += 1
        for name, _ in reading.found if reading is not None else [("not read", "")]:
            seen[name] += 1
    return {"golds": asked, "differences": dict(seen)}


def two_changes(golds: list[tuple[Database, str]], executor: Executor) -> dict[str, Any]:
    """Golds with two changes of different classes that both matter: are both named?"""
    tried = []
    for number, (database, gold) in enumerate(golds):
        draw = random.Random(f"two {number}")
        try:
            tree = styled(gold, database).tree
        except UNREADABLE:
            continue
        edits = [edit for edit in EDITS if edit[1] not in ("set operation", "nesting")]
        first, second = draw.sample(edits, 2)
        alone, other, both = tree.copy(), tree.copy(), tree.copy()
        try:
            first[2](alone, database, random.Random(number))
            second[2](other, database, random.Random(number))
            first[2](both, database, random.Random(number))
            second[2](both, database, random.Random(number))
            texts = [print_sql(one) for one in (alone, other, both)]
        except (NotHere, Replaced, AttributeError, *UNREADABLE):
            continue
        if first[1] != second[1]:
            tried.append((database, gold, texts, {first[1], second[1]}))
    judged = executor.verify([(db.path, gold, texts) for db, gold, texts, _ in tried])
    scored, made = [], []
    for (db, gold, texts, kinds), verdicts in zip(tried, judged, strict=True):
        if all(v.verdict is Verdict.WRONG and v.candidate.ran for v in verdicts):
            scored.append(
                Scored(str(len(made)), db.id, "", gold, texts[2], status="ok", scores={"bag": 0.0})
            )
            made.append(kinds)
    files = {db.id: db.path for db, _, _, _ in tried}
    named = [set(one.mistakes) for one in find_mistakes(scored, files, executor)]
    first_named = [one.mistakes[0] for one in find_mistakes(scored, files, executor)]
    pairs = list(zip(made, named, strict=True))
    return {
        "answers": len(made),
        "both named": round(sum(k <= n for k, n in pairs) / max(1, len(made)), 4),
        "one named": round(sum(bool(k & n) for k, n in pairs) / max(1, len(made)), 4),
        "first is one of them": round(
            sum(f in k for f, k in zip(first_named, made, strict=True)) / max(1, len(made)), 4
        ),
        "something else named": round(sum(bool(n - k) for k, n in pairs) / max(1, len(made)), 4),
        "missed": dict(Counter(kind for k, n in pairs for kind in k - n).most_common(6)),
    }


def read_golds(folder: Path, path: Path) -> list[tuple[Database, str]]:
    """(database, gold) of every question whose database is there."""
    catalogue = Catalogue.open(folder)
    records = json.loads(path.read_text())
    return [
        (catalogue[r["db_id"]], r.get("query") or r["SQL"])
        for r in records
        if r["db_id"] in catalogue
    ]


def measure_all(
    golds: list[tuple[Database, str]], executor: Executor, show: str | None
) -> dict[str, Any]:
    """Everything that is measured of one benchmark."""
    cases = changed(golds, False)
    plain, explained = measure(cases, executor)
    otherwise, _ = measure(changed(golds, True), executor)
    if show:
        by_text = {(gold, sql): (name, kind) for name, kind, _, gold, sql in cases}
        for one in explained:
            name, kind = by_text[one.gold, one.sql]
            if name == show and one.mistakes[0] != kind:
                print(one.mistakes, one.database, one.gold, one.sql, sep="\n  ")
    return {
        "golds": len(golds),
        "one change": plain,
        "one change, written otherwise": otherwise,
        "no change, written otherwise": false_alarms(golds),
        "two changes": two_changes(golds, executor),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument(
        "--also", nargs=2, type=Path, action="append", default=[], metavar=("DIR", "FILE")
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--show", help="print answers of this change that were named otherwise")
    parser.add_argument("--output", type=Path, default=Path("bench/results/mistakes.json"))
    args = parser.parse_args()
    report = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "sqlglot": sqlglot.__version__,
            "apsw": apsw.apsw_version(),
        },
    }
    with Executor(threads=args.threads) as executor:
        golds = read_golds(args.databases, args.pairs)
        report |= measure_all(golds, executor, args.show)
        for folder, path in args.also:
            report[str(path)] = measure_all(read_golds(folder, path), executor, None)
    print(json.dumps(report, indent=2, ensure_ascii=False))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
