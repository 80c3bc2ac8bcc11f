"""Wrong queries that one database lets pass, and how many of them its family catches.

    python bench/family.py --data DIR/spider --work DIR [--only DB ...] [--output FILE]

Wrong queries are held out from the choice of variants: the kinds of mutants are split in two
halves, a family is chosen by one half alone, and judged by the other half (and the reverse). A
held-out mutant counts when the original judges it RIGHT and it is really wrong: on at least one of
24 databases generated apart from the family (another seed, no choice) it returns other rows than
its gold, on data that determine the gold's result. These 24 come from the same generator, so what
the generator can never show is not counted. `other gold` are the golds of other questions on the
same database, judged as answers, the same way. `unselected` is the share that as many variants
catch when nobody chooses them. Paraphrases are neighbouring dev questions with golds of different
text that the original judges equal; the family should let them pass unless the annotators erred.

Results of databases that are already in the output file are kept, so `--only` can spread the work
over several short runs.
"""

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import apsw
import sqlglot

from spftcore.verify import Executor, Status, Verdict
from spftcore.verify.families import build_families, family_of
from spftcore.verify.families.golds import UnreadableGold, read_gold
from spftcore.verify.families.mutants import KINDS, Mutant
from spftcore.verify.families.schema import Schema, read_schema
from spftcore.verify.families.select import (
    SELECTION_LIMITS,
    Case,
    choose,
    differs,
    look,
    make_cases,
)
from spftcore.verify.families.values import Space, draw_profile, value_space
from spftcore.verify.families.variants import write_variant

TRUTH_FILES = 24
VARIANTS = 12
HALVES = (KINDS[::2], KINDS[1::2])


def drawn_files(
    folder: Path, schema: Schema, space: Space, golds: int, seed: str, count: int
) -> list[Path]:
    """Variants that nobody chooses."""
    folder.mkdir(parents=True)
    files = []
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        files.append(folder / f"{number:02d}.sqlite")
        write_variant(files[-1], schema, space, draw_profile(rng, range(golds)), rng)
    return files


def caught(executor: Executor, files: list[Path], cases: list[Case]) -> list[set[int]]:
    """For each case the mutants that some file separates."""
    found: list[set[int]] = [set() for _ in cases]
    for file in files:
        wanted = [
            [i for i in range(len(case.mutants)) if i not in seen]
            for case, seen in zip(cases, found, strict=True)
        ]
        for number, separated in look(executor, file, cases, wanted).separated.items():
            found[number].update(separated)
    return found


def passing(executor: Executor, source: Path, cases: list[Case]) -> list[Case]:
    """The cases with only those mutants that the original judges RIGHT."""
    items = [(source, c.gold.sql, [m.sql for m in c.mutants]) for c in cases]
    kept = []
    for case, judged in zip(cases, executor.verify(items), strict=True):
        right = [
            mutant
            for mutant, judgement in zip(case.mutants, judged, strict=True)
            if judgement.verdict == Verdict.RIGHT and judgement.gold.status == Status.OK
        ]
        kept.append(Case(case.gold, right, case.probes))
    return kept


def measure(
    executor: Executor, name: str, source: Path, records: list[dict[str, str]], work: Path
) -> dict[str, Any]:
    """All counts of one database."""
    texts = list(dict.fromkeys(record["query"] for record in records))
    start = time.perf_counter()
    (report,) = build_families({name: source}, {name: texts}, work / "families", variants=VARIANTS)
    seconds = time.perf_counter() - start
    if report.error:
        raise SystemExit(report.error)

    schema = read_schema(source)
    outcomes = executor.execute([(source, sql) for sql in texts])
    running = [sql for sql, outcome in zip(texts, outcomes, strict=True) if outcome.ran]
    golds = []
    for sql in running:
        try:
            golds.append(read_gold(sql, schema))
        except UnreadableGold:
            continue
    space = value_space(schema, golds)
    truth = drawn_files(work / "truth", schema, space, len(golds), f"truth/{name}", TRUTH_FILES)
    plain = drawn_files(work / "plain", schema, space, len(golds), f"plain/{name}", VARIANTS)

    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    missed = []

    def count(cases: list[Case], family: list[Path]) -> None:
        cases = passing(executor, source, cases)
        wrong = caught(executor, truth, cases)
        by_family = caught(executor, family, cases)
        by_plain = caught(executor, plain[: len(family)], cases)
        for number, case in enumerate(cases):
            for i, mutant in enumerate(case.mutants):
                tally = kinds[mutant.kind]
                tally["passed by original"] += 1
                if i in wrong[number]:
                    tally["wrong"] += 1
                    tally["caught"] += i in by_family[number]
                    tally["unselected"] += i in by_plain[number]
                    if i not in by_family[number]:
                        missed.append(
                            {"kind": mutant.kind, "gold": case.gold.sql, "sql": mutant.sql}
                        )

    for number, half in enumerate(HALVES):
        folder = work / f"half-{number}"
        folder.mkdir()
        chosen = make_cases(golds, schema, space, half)
        kept = choose(
            executor, source, folder, schema, space, chosen, seed=f"0/{name}", variants=VARIANTS
        )
        held_out = make_cases(golds, schema, space, HALVES[1 - number])
        count(held_out, [k.file for k in kept])
    others = [
        Case(
            case.gold,
            [Mutant("other gold", sql) for sql in running if sql != case.gold.sql],
            case.probes,
        )
        for case in make_cases(golds, schema, space, ())
    ]
    count(others, list(report.files))

    itself = Counter()
    for sql in running:
        files = family_of(work / "families", source, sql)
        judged = executor.verify([(file, sql, [sql]) for file in files])
        itself["golds"] += 1
        itself["right"] += all(row[0].verdict == Verdict.RIGHT for row in judged)
        itself["pairs"] += len(report.files)
        itself["fit pairs"] += len(files)
        itself["without a fit variant"] += not files
    return {
        "golds": len(texts),
        "variants": len(report.files),
        "mutants": report.mutants,
        "separated by original": report.by_original,
        "separated by family": report.separated,
        "build seconds": round(seconds, 2),
        "held out": {kind: dict(tally) for kind, tally in kinds.items()},
        "itself": dict(itself),
        "paraphrases": paraphrases(executor, source, records, work / "families"),
        "missed": missed,
    }


def paraphrases(
    executor: Executor, source: Path, records: list[dict[str, str]], families: Path
) -> dict[str, Any]:
    """Neighbouring questions whose golds differ in text and agree on the original."""
    result: dict[str, Any] = {"pairs": 0, "flagged": []}
    for one, other in zip(records[::2], records[1::2], strict=False):
        gold, answer = one["query"], other["query"]
        if "".join(gold.lower().split()) == "".join(answer.lower().split()):
            continue
        if executor.verify([(source, gold, [answer])])[0][0].verdict != Verdict.RIGHT:
            continue
        result["pairs"] += 1
        files = family_of(families, source, gold)
        if any(differs(row[0]) for row in executor.verify([(f, gold, [answer]) for f in files])):
            result["flagged"].append(
                {"questions": [one["question"], other["question"]], "golds": [gold, answer]}
            )
    return result


def summary(databases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Totals over the databases."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    itself: Counter[str] = Counter()
    pairs = flagged = 0
    for record in databases.values():
        for kind, tally in record["held out"].items():
            kinds[kind].update(tally)
        itself.update(record["itself"])
        pairs += record["paraphrases"]["pairs"]
        flagged += len(record["paraphrases"]["flagged"])
    mutants: Counter[str] = Counter()
    for kind, tally in kinds.items():
        if kind != "other gold":
            mutants.update(tally)
    kinds["all held-out mutants"] = mutants
    seconds = sorted(record["build seconds"] for record in databases.values())
    return {
        "databases": len(databases),
        "kinds": {
            kind: {
                **tally,
                "share caught": share(tally["caught"], tally["wrong"]),
                "share unselected": share(tally["unselected"], tally["wrong"]),
            }
            for kind, tally in kinds.items()
        },
        "golds right against themselves": share(itself["right"], itself["golds"]),
        "itself": dict(itself),
        "paraphrases": {"pairs": pairs, "flagged": flagged},
        "build seconds": {
            "median": seconds[len(seconds) // 2],
            "most": seconds[-1],
            "sum": round(sum(seconds), 1),
        },
    }


def share(part: int, whole: int) -> float | None:
    """A share to four digits, or None of nothing."""
    return round(part / whole, 4) if whole else None


def show(total: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'kind':22} {'passed':>7} {'wrong':>6} {'caught':>7} {'share':>7} {'unselected':>10}")
    for kind, tally in sorted(total["kinds"].items()):
        print(
            f"{kind:22} {tally.get('passed by original', 0):7} {tally.get('wrong', 0):6} "
            f"{tally.get('caught', 0):7} {tally['share caught'] or 0:7.1%} "
            f"{tally['share unselected'] or 0:10.1%}"
        )
    for key in (
        "databases",
        "golds right against themselves",
        "itself",
        "paraphrases",
        "build seconds",
    ):
        print(f"{key}: {total[key]}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, required=True, help="folder with dev.json, database/")
    options.add_argument("--work", type=Path, required=True, help="folder for what is generated")
    options.add_argument("--only", nargs="*", help="databases of this run (default: all)")
    options.add_argument("--output", type=Path, default=Path("bench/results/family.json"))
    given = options.parse_args()

    records: dict[str, list[dict[str, str]]] = defaultdict(list)
    for record in json.loads((given.data / "dev.json").read_text()):
        records[record["db_id"]].append(record)
    files = {n: given.data / "database" / n / f"{n}.sqlite" for n in records}
    done: dict[str, Any] = {}
    if given.output.is_file():
        done = json.loads(given.output.read_text())["per database"]
    with Executor(limits=SELECTION_LIMITS) as executor:
        for name in given.only or list(records):
            if name in done or not files[name].is_file():
                continue
            work = given.work / name
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            start = time.perf_counter()
            done[name] = measure(executor, name, files[name], records[name], work)
            shutil.rmtree(work)
            print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    total = summary(done)
    show(total)
    result = {
        "command": "python bench/family.py --data DIR/spider --work DIR",
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "load average at the end": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            "sqlite": apsw.sqlite_lib_version(),
            "sqlglot": sqlglot.__version__,
        },
        "truth files": TRUTH_FILES,
        "most variants": VARIANTS,
        "halves": HALVES,
        "total": total,
        "per database": done,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
