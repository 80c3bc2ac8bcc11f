"""The comparisons `spider`, `bird` and `soft_f1` against their rules written in plain Python.

The references work on Python's own values, whose equality is the one that the official evaluators
use: 1 == 1.0, None == None, b"a" != "a", every bit of a float counts.
"""

from __future__ import annotations

import itertools
import math
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_rules import soft_f1_of_rows

from spftcore.verify import Executor, Judgement, Limits, Status, Verdict

Mode = Literal["spider", "bird", "soft_f1"]
Row = tuple[Any, ...]

MODES: list[Mode] = ["spider", "bird", "soft_f1"]

# Values that are easily confused with one another.
VALUES: list[Any] = [
    None, 0, 1, 2, -1, 2**53, 2**53 + 1, 2**63 - 1, 0.0, 1.0, 0.5, 0.3, 0.1 + 0.2, float(2**53),
    float(2**63), 1e300, float("inf"), 2.9999999999999996, 3, "a", "A", "1", "", "a ", b"a", b"",
]  # fmt: skip


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return "9e999" if math.isinf(value) else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return "'" + value.replace("'", "''") + "'"


def table(rows: Sequence[Row], columns: int) -> str:
    """A query that gives just these rows."""
    if not rows:
        return f"SELECT {', '.join(['1'] * columns)} WHERE 0"
    return "VALUES " + ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in rows)


def spider_reference(gold: list[Row], candidate: list[Row], ordered: bool) -> bool:
    if not gold and not candidate:
        return True
    if len(gold) != len(candidate) or len(gold[0]) != len(candidate[0]):
        return False
    for order in itertools.permutations(range(len(gold[0]))):
        moved = [tuple(row[i] for i in order) for row in candidate]
        if moved == gold or (not ordered and Counter(moved) == Counter(gold)):
            return True
    return False


def bird_reference(gold: list[Row], candidate: list[Row]) -> bool:
    return set(gold) == set(candidate)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(threads=1, gold_cache_bytes=0) as one:
        yield one


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modes") / "any.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE g (a, b)")
    connection.executemany("INSERT INTO g VALUES (?, ?)", [("x", 1), ("y", 2), ("z", 2)])
    connection.commit()
    connection.close()
    return path


def judge(executor: Executor, database: Path, mode: Mode, gold: str, candidate: str) -> Judgement:
    judgement = executor.verify([(database, gold, [candidate])], compare=mode)[0][0]
    assert judgement.gold.ran, judgement.gold
    assert judgement.candidate.ran, judgement.candidate
    return judgement


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Row], list[Row], int, int]:
    """A gold's rows, a candidate's made from them by small steps, and their numbers of columns."""
    cell = st.sampled_from(draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=4)))
    width = draw(st.integers(1, 4))
    gold = draw(st.lists(st.tuples(*[cell] * width), max_size=6))
    candidate = [list(row) for row in gold]
    columns = width
    for _ in range(draw(st.integers(0, 4))):
        step = draw(st.integers(0, 6))
        if step == 0:
            order = draw(st.permutations(range(columns)))
            candidate = [[row[i] for i in order] for row in candidate]
        elif step == 1:
            candidate = draw(st.permutations(candidate))
        elif step == 2 and candidate:
            candidate.append(list(draw(st.sampled_from(candidate))))
        elif step == 3 and candidate:
            candidate.pop(draw(st.integers(0, len(candidate) - 1)))
        elif step == 4 and candidate:
            draw(st.sampled_from(candidate))[draw(st.integers(0, columns - 1))] = draw(cell)
        elif step == 5 and candidate:
            # Two values of one column change places: each column keeps its bag of values.
            one, other = draw(st.sampled_from(candidate)), draw(st.sampled_from(candidate))
            at = draw(st.integers(0, columns - 1))
            one[at], other[at] = other[at], one[at]
        elif step == 6:
            columns += 1
            candidate = [[*row, draw(cell)] for row in candidate]
    return gold, [tuple(row) for row in candidate], width, columns


examples = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@examples
@given(drawn=tables(), ordered=st.booleans())
def test_spider_agrees_with_the_reference(
    executor: Executor, database: Path, drawn: tuple[list[Row], list[Row], int, int], ordered: bool
) -> None:
    gold, candidate, width, columns = drawn
    mark = "-- order by" if ordered else "-- order"  # the evaluator looks at the letters alone
    judgement = judge(
        executor, database, "spider", f"{table(gold, width)} {mark}", table(candidate, columns)
    )
    right = spider_reference(gold, candidate, ordered)
    assert judgement.verdict is (Verdict.RIGHT if right else Verdict.WRONG), judgement.reason
    assert judgement.score == float(right)
    assert judgement.both_empty == (not gold and not candidate)


@examples
@given(drawn=tables())
def test_bird_agrees_with_the_reference(
    executor: Executor, database: Path, drawn: tuple[list[Row], list[Row], int, int]
) -> None:
    gold, candidate, width, columns = drawn
    judgement = judge(executor, database, "bird", table(gold, width), table(candidate, columns))
    right = bird_reference(gold, candidate)
    assert judgement.verdict is (Verdict.RIGHT if right else Verdict.WRONG), judgement.reason
    assert judgement.score == float(right)


@examples
@given(drawn=tables())
def test_soft_f1_agrees_with_the_reference(
    executor: Executor, database: Path, drawn: tuple[list[Row], list[Row], int, int]
) -> None:
    gold, candidate, width, columns = drawn
    judgement = judge(executor, database, "soft_f1", table(gold, width), table(candidate, columns))
    score = soft_f1_of_rows(gold, candidate)
    assert judgement.score == pytest.approx(score, rel=1e-6)
    # 1e-9: the reference adds fractions, which may miss 1 by their rounding.
    full = score > 1 - 1e-9
    assert judgement.verdict is (Verdict.RIGHT if full else Verdict.WRONG)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("a", VALUES)
def test_values_are_equal_where_python_says_so(
    executor: Executor, database: Path, mode: Mode, a: Any
) -> None:
    others = [f"SELECT {literal(b)}" for b in VALUES]
    (judged,) = executor.verify([(database, f"SELECT {literal(a)}", others)], compare=mode)
    for b, judgement in zip(VALUES, judged, strict=True):
        assert judgement.verdict is (Verdict.RIGHT if a == b else Verdict.WRONG), (a, b)


# The examples of docs/comparison.md: (mode, gold, candidate, verdict).
EXAMPLES: list[tuple[Mode, str, str, Verdict]] = [
    ("spider", "SELECT a, b FROM g", "SELECT b, a FROM g", Verdict.RIGHT),
    ("spider", "SELECT b FROM g", "SELECT DISTINCT b FROM g", Verdict.RIGHT),
    ("spider", "SELECT count(DISTINCT b) FROM g", "SELECT count(b) FROM g", Verdict.RIGHT),
    ("spider", "SELECT count(b) FROM g", "SELECT 2", Verdict.WRONG),
    ("spider", "SELECT a FROM g WHERE b > = 2", "SELECT a FROM g WHERE b >= 2", Verdict.RIGHT),
    ("spider", "SELECT '> ='", "SELECT '>='", Verdict.RIGHT),
    ("spider", "SELECT YEAR(CURDATE())", "SELECT 2020", Verdict.RIGHT),
    ("spider", "SELECT a FROM g ORDER BY b", "VALUES ('x'), ('z'), ('y')", Verdict.WRONG),
    ("spider", "SELECT a FROM g ORDER  BY b", "VALUES ('x'), ('z'), ('y')", Verdict.RIGHT),
    ("spider", "SELECT a, b FROM g ORDER BY a", "SELECT b, a FROM g ORDER BY a", Verdict.RIGHT),
    ("spider", "SELECT a FROM g WHERE 0", "SELECT a, b FROM g WHERE 0", Verdict.RIGHT),
    ("spider", "SELECT a FROM g", "SELECT a, b FROM g", Verdict.WRONG),
    ("spider", "SELECT 'caf'", "SELECT CAST(x'636166e9' AS TEXT)", Verdict.RIGHT),
    ("bird", "SELECT 'caf'", "SELECT CAST(x'636166e9' AS TEXT)", Verdict.WRONG),
    ("bird", "SELECT b FROM g", "SELECT DISTINCT b FROM g ORDER BY b DESC", Verdict.RIGHT),
    ("bird", "SELECT a, b FROM g", "SELECT b, a FROM g", Verdict.WRONG),
    ("bird", "SELECT a FROM g WHERE 0", "SELECT a, b FROM g WHERE 0", Verdict.RIGHT),
    ("soft_f1", "SELECT a, b FROM g", "SELECT b, a FROM g", Verdict.RIGHT),
    ("soft_f1", "SELECT a, b FROM g", "SELECT a, b FROM g ORDER BY a DESC", Verdict.WRONG),
]


@pytest.mark.parametrize(("mode", "gold", "candidate", "verdict"), EXAMPLES)
def test_examples_of_the_documentation(
    executor: Executor, database: Path, mode: Mode, gold: str, candidate: str, verdict: Verdict
) -> None:
    judgement = judge(executor, database, mode, gold, candidate)
    assert judgement.verdict is verdict, judgement.reason


def test_soft_f1_of_the_documentation(executor: Executor, database: Path) -> None:
    """tp, fp, fn by hand, in values of the gold's three columns: 4, 2 and 2 + 3."""
    gold = table([(1, 2, 3), (4, 5, 6), (7, 8, 9)], 3)
    candidate = table([(3, 1, 0), (4, 5, 0), (4, 5, 0)], 3)
    judgement = judge(executor, database, "soft_f1", gold, candidate)
    assert judgement.score == pytest.approx(2 * 4 / (2 * 4 + 2 + 5), rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_run_scores_nothing(executor: Executor, database: Path, mode: Mode) -> None:
    gold = "SELECT a FROM g"
    ((failed,), (of_failed,)) = executor.verify(
        [(database, gold, ["SELECT nothing FROM g"]), (database, "SELECT FROM", [gold])],
        compare=mode,
    )
    assert (failed.verdict, failed.score) == (Verdict.WRONG, 0.0)
    assert (of_failed.verdict, of_failed.score) == (Verdict.UNJUDGED, 0.0)


def test_a_second_statement_is_refused_in_spider_too(executor: Executor, database: Path) -> None:
    gold = "SELECT a FROM g"
    ((judgement,),) = executor.verify(
        [(database, gold, ["SELECT a FROM g; SELECT 1"])], compare="spider"
    )
    assert judgement.verdict is Verdict.WRONG


def test_what_the_modes_keep_of_each_value_is_bounded(database: Path) -> None:
    nulls = "SELECT NULL, NULL FROM (VALUES (1), (2), (3), (4), (5))"  # 10 bytes, 160 kept
    with Executor(threads=1, limits=Limits(bytes=159)) as executor:
        ((bag,),) = executor.verify([(database, nulls, [nulls])])
        ((spider,),) = executor.verify([(database, nulls, [nulls])], compare="spider")
    assert bag.gold.ran
    assert spider.gold.status is Status.TOO_LARGE


@pytest.mark.parametrize("kind", ["random", "permutations"])
def test_thirty_permuted_columns_are_matched(executor: Executor, database: Path, kind: str) -> None:
    chance = random.Random(kind)
    columns = [[chance.randrange(j + 2) for _ in range(40)] for j in range(30)]
    if kind == "permutations":
        columns = [chance.sample(range(40), 40) for _ in range(30)]
    gold = list(zip(*columns, strict=True))
    chance.shuffle(columns)
    rows = list(zip(*columns, strict=True))
    chance.shuffle(rows)
    near = [list(row) for row in rows]
    near[0][3], near[1][3] = near[1][3], near[0][3]
    right = judge(executor, database, "spider", table(gold, 30), table(rows, 30))
    assert right.verdict is Verdict.RIGHT
    if near[0][3] != near[1][3]:
        wrong = judge(
            executor, database, "spider", table(gold, 30), table([tuple(r) for r in near], 30)
        )
        assert wrong.verdict is Verdict.WRONG


def cycles(lengths: Sequence[int]) -> list[Row]:
    """A row per vertex and a column per edge of a graph of cycles: all columns look alike."""
    total = sum(lengths)
    rows = [[0] * total for _ in range(total)]
    start = 0
    for length in lengths:
        for i in range(length):
            rows[start + i][start + i] = 1
            rows[start + (i + 1) % length][start + i] = 1
        start += length
    return [tuple(row) for row in rows]


def test_columns_that_all_look_alike_are_searched_within_a_bound(
    executor: Executor, database: Path
) -> None:
    def verdict(gold: Sequence[int], candidate: Sequence[int]) -> Verdict:
        width = sum(gold)
        one, other = table(cycles(gold), width), table(cycles(candidate), width)
        return judge(executor, database, "spider", one, other).verdict

    assert verdict([6, 4], [4, 6]) is Verdict.RIGHT
    assert verdict([12], [6, 6]) is Verdict.WRONG
    # The difference hides behind ten equal parts: no answer rather than a guess.
    assert verdict([6] * 11, [6] * 9 + [4, 8]) is Verdict.UNJUDGED
