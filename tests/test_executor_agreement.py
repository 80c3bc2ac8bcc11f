"""Every gold of Spider and its mutants, judged here and by plain Python over Python's sqlite3."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spftcore.verify import Executor, Judgement, Status, Verdict

DATA = Path(os.environ.get("SPFT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not (DATA / "spider").exists(), reason=f"no Spider below {DATA}")

Row = tuple[Any, ...]

# Mistakes that models make, as edits of the text: what to look for, and what to put there.
MUTATIONS: tuple[tuple[str, str], ...] = (
    (r"\bDISTINCT\b", ""),
    (r"\bDESC\b", "ASC"),
    (r"\bASC\b", "DESC"),
    (r"\bmax\s*\(", "min("),
    (r"\bavg\s*\(", "sum("),
    (r"\bcount\s*\(\s*\*\s*\)", "count(*) + 0.0"),
    (r"\bLIMIT 1\b", "LIMIT 2"),
    (r"(?<![<>!])=(?!=)", "<>"),
    (r">(?!=)", ">="),
    (r"<(?![=>])", "<="),
    (r"\bAND\b", "OR"),
    (r"\bINTERSECT\b", "UNION"),
    (r"\bNOT IN\b", "IN"),
    (r"(\d+)", r"1\1"),
    (r"^SELECT\s+([^,()]+?)\s*,\s*([^,()]+?)\s+FROM", r"SELECT \2, \1 FROM"),
    (r"\bWHERE\b.*", ""),
    (r"\bFROM\b", "FRM"),
    (r"\bname\b", "nme"),
)


def mutants(gold: str) -> Iterator[str]:
    for pattern, replacement in MUTATIONS:
        mutant = re.sub(pattern, replacement, gold, count=1, flags=re.IGNORECASE)
        if mutant != gold:
            yield mutant


class Plain:
    """The reference: Python's sqlite3, with a bound on steps that no gold of Spider reaches."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        self._connection.text_factory = bytes

    def rows(self, sql: str) -> tuple[list[Row], int] | None:
        """Rows and the number of columns; None when it does not run or runs for too long."""
        calls = itertools.count()
        self._connection.set_progress_handler(lambda: next(calls) > 20_000, 1000)
        try:
            cursor = self._connection.execute(sql)
            return cursor.fetchall(), len(cursor.description or ())
        except (sqlite3.Error, sqlite3.Warning):
            return None

    def close(self) -> None:
        self._connection.close()


def rounded(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value) and value != int(value):
        return float(f"{value:.11e}")
    return value


def same_bag(gold: list[Row], candidate: list[Row]) -> bool:
    def bag(rows: list[Row]) -> Counter[Row]:
        return Counter(tuple(map(rounded, row)) for row in rows)

    return bag(gold) == bag(candidate)


def same_spider(gold: list[Row], candidate: list[Row], ordered: bool) -> bool:
    """Some order of the columns makes the rows equal; tried one by one."""
    if not gold and not candidate:
        return True
    if len(gold) != len(candidate) or len(gold[0]) != len(candidate[0]):
        return False
    wanted = [Counter(column) for column in zip(*gold, strict=True)]
    given = [Counter(column) for column in zip(*candidate, strict=True)]
    for order in itertools.permutations(range(len(wanted))):
        if any(given[k] != wanted[i] for i, k in enumerate(order)):
            continue
        permuted = [tuple(row[k] for k in order) for row in candidate]
        if permuted == gold if ordered else Counter(permuted) == Counter(gold):
            return True
    return False


def pairs_of(file: str) -> dict[str, list[str]]:
    """Distinct golds by database, of the databases that are there."""
    golds: dict[str, list[str]] = {}
    for record in json.loads((DATA / "spider" / file).read_text(encoding="utf-8")):
        golds.setdefault(record["db_id"], []).append(record["query"].rstrip("; \n"))
    return {
        name: list(dict.fromkeys(texts))
        for name, texts in sorted(golds.items())
        if (DATA / "spider" / "database" / name / f"{name}.sqlite").exists()
    }


def check(file: str) -> Counter[str]:
    """Compares every verdict with the reference's; the counts tell what was compared."""
    seen: Counter[str] = Counter()
    with Executor() as executor:
        for name, golds in pairs_of(file).items():
            path = DATA / "spider" / "database" / name / f"{name}.sqlite"
            items = [(path, gold, [gold, *mutants(gold)]) for gold in golds]
            judged = {
                mode: executor.verify(items, mode)  # type: ignore[arg-type]
                for mode in ("bag", "spider", "bird")
            }
            plain = Plain(path)
            # Spider's evaluator takes DISTINCT out of what it runs.
            without = {
                sql: re.sub(r"\bDISTINCT\b", "", sql, flags=re.IGNORECASE)
                for _, _, texts in items
                for sql in texts
            }
            results = {sql: plain.rows(sql) for sql in {*without, *without.values()}}
            plain.close()
            for i, (_, gold, candidates) in enumerate(items):
                for k, candidate in enumerate(candidates):
                    place = f"{name}: {gold} | {candidate}"
                    expected, given = results[gold], results[candidate]
                    bag, bird = judged["bag"][i][k], judged["bird"][i][k]
                    if not comparable(bag, expected, given, place):
                        seen["undecided"] += 1
                        continue
                    seen["pairs"] += 1
                    if expected is None or given is None:
                        wanted = Verdict.UNJUDGED if expected is None else Verdict.WRONG
                        assert bag.verdict is bird.verdict is wanted, place
                        seen["did not run"] += 1
                        continue
                    (rows, columns), (others, width) = expected, given
                    equal = columns == width and same_bag(rows, others)
                    if rows == others or "order by" not in gold.lower() or not equal:
                        assert (bag.verdict is Verdict.RIGHT) == equal, f"{place}: {bag.reason}"
                        seen["bag right" if equal else "bag wrong"] += 1
                    assert (bird.verdict is Verdict.RIGHT) == (set(rows) == set(others)), place
                    first, second = results[without[gold]], results[without[candidate]]
                    if first is not None and second is not None:
                        ordered = "order by" in gold.lower()
                        same = same_spider(first[0], second[0], ordered)
                        spider = judged["spider"][i][k]
                        assert (spider.verdict is Verdict.RIGHT) == same, f"{place}: {spider}"
                        seen["spider right" if same else "spider wrong"] += 1
    return seen


def comparable(
    judgement: Judgement,
    gold: tuple[list[Row], int] | None,
    candidate: tuple[list[Row], int] | None,
    place: str,
) -> bool:
    """Whether both sides ended by themselves; that they agree on what ran is asserted."""
    bounded = {Status.STEP_BUDGET, Status.TIME_BUDGET, Status.TOO_LARGE}
    for outcome, result in ((judgement.gold, gold), (judgement.candidate, candidate)):
        if outcome.status in bounded or (result is None and outcome.ran):
            return False
        assert outcome.ran == (result is not None), f"{place}: {outcome}"
    return True


def test_verdicts_on_the_dev_golds_and_their_mutants_are_plain_sqlites() -> None:
    seen = check("dev.json")
    assert seen["pairs"] > 2500
    assert seen["bag wrong"] > 1000
    assert seen["bag right"] > 450
    assert seen["spider right"] > 450
    assert seen["did not run"] > 100
    assert seen["undecided"] < 0.01 * seen["pairs"]


@pytest.mark.heavy
def test_verdicts_on_the_train_golds_and_their_mutants_are_plain_sqlites() -> None:
    seen = check("train_spider.json")
    assert seen["pairs"] > 15_000
    assert seen["undecided"] < 0.01 * seen["pairs"]
