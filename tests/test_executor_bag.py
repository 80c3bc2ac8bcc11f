"""The `bag` comparison against a reference in plain Python."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from spftcore.verify import Executor, Judgement, Verdict

DATA = Path(os.environ.get("SPFT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

TWELVE = Context(prec=12, rounding=ROUND_HALF_EVEN)


def canonical(value: Any) -> tuple[str, Any]:
    """Equal exactly where the documentation of `bag` says that two values are."""
    if isinstance(value, float):
        if math.isinf(value):
            return ("infinite", value)
        if value == int(value) and -(2**63) <= value < 2**63:
            return ("number", Decimal(int(value)))
        rounded = TWELVE.create_decimal(Decimal(value))
        if rounded == rounded.to_integral_value() and abs(rounded) >= 10**12:
            return ("rounded", rounded)
        return ("number", rounded)
    if isinstance(value, int):
        return ("number", Decimal(value))
    return (type(value).__name__, value)


def canonical_row(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(canonical(v) for v in row)


def reference(
    gold: list[tuple[Any, ...]], keys: int | None, candidate: list[tuple[Any, ...]]
) -> bool:
    """True when `candidate` answers `gold`, whose last `keys` columns are its sort keys.

    `keys` is None for a gold without order.
    """
    width = -keys if keys else None
    rows = [canonical_row(row[:width]) for row in gold]
    others = [canonical_row(row) for row in candidate]
    if Counter(rows) != Counter(others):
        return False
    if keys is None:
        return True
    at = 0
    order = [canonical_row(row[len(row) - keys :]) for row in gold]
    for _, group in groupby(range(len(rows)), key=lambda i: order[i]):
        indexes = list(group)
        if Counter(rows[i] for i in indexes) != Counter(others[at : at + len(indexes)]):
            return False
        at += len(indexes)
    return True


# Values that are easily confused with one another.
VALUES: list[Any] = [
    None, 0, 1, 2, -1, 2**53 + 1, 2**63 - 1, 0.0, 1.0, 0.5, 0.3, 0.1 + 0.2, 1 / 3, 0.333333333333,
    1e300, float("inf"), 2.9999999999999996, 3, 123456789012.5, "a", "A", "1", "", "a ", b"a", b"",
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


def table(name: str, columns: str, rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        width = columns.count(",") + 1
        return f"{name}({columns}) AS (SELECT {', '.join(['1'] * width)} WHERE 0)"
    values = ", ".join("(" + ", ".join(literal(v) for v in row) + ")" for row in rows)
    return f"{name}({columns}) AS (VALUES {values})"


# (gold, the same with its sort keys written out, how many keys; None: no order). No key is the text
# of a float: Python's own SQLite may print fewer digits than the one in apsw.
GOLDS: list[tuple[str, str, int | None]] = [
    ("SELECT x, y FROM g", "SELECT x, y FROM g", None),
    ("SELECT x, y FROM (SELECT * FROM g ORDER BY k)", "SELECT x, y FROM g", None),
    ("SELECT x, y FROM g ORDER BY k", "SELECT x, y, k FROM g ORDER BY k", 1),
    ("SELECT x, y FROM g ORDER BY k DESC;", "SELECT x, y, k FROM g ORDER BY k DESC", 1),
    ("SELECT x, y FROM g ORDER BY 1", "SELECT x, y, x FROM g ORDER BY x", 1),
    ("SELECT x, y FROM g ORDER BY y, k DESC", "SELECT x, y, y, k FROM g ORDER BY y, k DESC", 2),
    ("SELECT x, y AS k FROM g ORDER BY k", "SELECT x, y, y FROM g ORDER BY y", 1),
    ("SELECT x, y FROM g AS h ORDER BY h.k", "SELECT x, y, k FROM g ORDER BY k", 1),
    ("SELECT * FROM (SELECT x, y FROM g) ORDER BY x", "SELECT x, y, x FROM g ORDER BY x", 1),
    (
        "SELECT x, y FROM g ORDER BY k IS NULL ASC, typeof(k) DESC",
        "SELECT x, y, k IS NULL, typeof(k) FROM g ORDER BY k IS NULL, typeof(k) DESC",
        2,
    ),
    (
        "SELECT x, y FROM g ORDER BY CASE WHEN k IN (1, 2) THEN 'order by' ELSE ',' END -- end",
        "SELECT x, y, k IN (1, 2) IS 1 FROM g ORDER BY CASE WHEN k IN (1, 2) THEN 2 ELSE 1 END",
        1,
    ),
    (
        "SELECT x, y FROM g ORDER BY k COLLATE NOCASE",
        "SELECT x, y, CASE WHEN typeof(k) = 'text' THEN lower(k) ELSE k END FROM g "
        "ORDER BY k COLLATE NOCASE",
        1,
    ),
    (
        "SELECT DISTINCT x, y FROM g ORDER BY y DESC",
        "SELECT DISTINCT x, y, y FROM g ORDER BY y DESC",
        1,
    ),
    (
        "SELECT x, y FROM g UNION ALL SELECT x, y FROM g ORDER BY 2",
        "SELECT x, y, y FROM g UNION ALL SELECT x, y, y FROM g ORDER BY 2",
        1,
    ),
    (
        "SELECT x, count(*) FROM g GROUP BY x ORDER BY count(*) DESC",
        "SELECT x, count(*), count(*) FROM g GROUP BY x ORDER BY count(*) DESC",
        1,
    ),
    (
        "SELECT x, count(*) n FROM g GROUP BY x ORDER BY max(typeof(y)), n",
        "SELECT x, count(*), max(typeof(y)), count(*) FROM g GROUP BY x ORDER BY 3, 4",
        2,
    ),
]


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(threads=1, gold_cache_bytes=0) as one:
        yield one


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose schema names no collation: one that does makes text keys tie under it."""
    path = tmp_path_factory.mktemp("bag") / "any.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.close()
    return path


def judge(executor: Executor, database: Path, gold: str, candidate: str) -> Judgement:
    return executor.verify([(database, gold, [candidate])])[0][0]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_verdicts_agree_with_the_reference(
    executor: Executor, database: Path, data: st.DataObject
) -> None:
    pool = data.draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=4))
    cell = st.sampled_from(pool)
    rows = data.draw(st.lists(st.tuples(cell, cell, cell), max_size=7))
    gold, with_keys, keys = data.draw(st.sampled_from(GOLDS))
    prefix = "WITH " + table("g", "x, y, k", rows) + " "
    plain = apsw.Connection(":memory:")  # number to text differs between SQLite versions
    expected = plain.execute(prefix + with_keys).fetchall()
    answer = [row[: len(row) - (keys or 0)] for row in expected]

    # The gold's own rows, shuffled, and now and then changed a little.
    candidate = data.draw(st.permutations(answer))
    if candidate and data.draw(st.integers(0, 3)) == 0:
        at = data.draw(st.integers(0, len(candidate) - 1))
        changed = data.draw(st.tuples(cell, cell))
        candidate = [*candidate[:at], changed, *candidate[at + 1 :]]
    sql = "WITH " + table("c", "x, y", candidate) + " SELECT x, y FROM c"
    assert plain.execute(sql).fetchall() == [tuple(r) for r in candidate]
    plain.close()

    judgement = judge(executor, database, prefix + gold, sql)
    assert judgement.gold.ran, judgement.gold
    assert judgement.candidate.ran, judgement.candidate
    right = reference(expected, keys, candidate)
    assert judgement.verdict is (Verdict.RIGHT if right else Verdict.WRONG), judgement.reason


@pytest.mark.parametrize("a", VALUES)
def test_every_pair_of_values_is_equal_as_documented(
    executor: Executor, database: Path, a: Any
) -> None:
    others = [f"SELECT {literal(b)}" for b in VALUES]
    (judged,) = executor.verify([(database, f"SELECT {literal(a)}", others)])
    for b, judgement in zip(VALUES, judged, strict=True):
        equal = canonical(a) == canonical(b)
        assert judgement.verdict is (Verdict.RIGHT if equal else Verdict.WRONG), (a, b)


def test_examples_of_the_documentation(executor: Executor, database: Path) -> None:
    def right(gold: str, candidate: str) -> bool:
        return judge(executor, database, gold, candidate).verdict is Verdict.RIGHT

    g = "WITH g(a, b) AS (VALUES ('x', 1), ('y', 2), ('z', 2)) "
    assert right(g + "SELECT a FROM g", g + "SELECT a FROM g ORDER BY a DESC")
    assert not right(g + "SELECT b FROM g", g + "SELECT DISTINCT b FROM g")
    assert not right(g + "SELECT a, b FROM g", g + "SELECT b, a FROM g")
    by_b = g + "SELECT a FROM g ORDER BY b"
    assert right(by_b, "VALUES ('x'), ('z'), ('y')")
    assert not right(by_b, "VALUES ('y'), ('x'), ('z')")
    # No key to be had: DISTINCT ordered by what it does not give. Order counts everywhere.
    hidden = g + "SELECT DISTINCT a FROM g ORDER BY -b, a"
    assert right(hidden, "VALUES ('y'), ('z'), ('x')")
    assert not right(hidden, "VALUES ('z'), ('y'), ('x')")


def test_ties_under_a_declared_collation_are_ties(executor: Executor, tmp_path: Path) -> None:
    database = tmp_path / "collated.sqlite"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE n (x TEXT COLLATE NOCASE, y)")
    connection.executemany("INSERT INTO n VALUES (?, ?)", [("a", 1), ("B", 2), ("A", 3)])
    connection.commit()
    connection.close()
    gold = "SELECT x, y FROM n ORDER BY x"
    assert judge(executor, database, gold, "VALUES ('A', 3), ('a', 1), ('B', 2)").verdict == 1
    assert judge(executor, database, gold, "VALUES ('a', 1), ('A', 3), ('B', 2)").verdict == 1
    assert judge(executor, database, gold, "VALUES ('B', 2), ('A', 3), ('a', 1)").verdict == 0


@pytest.mark.skipif(not (DATA / "spider").exists(), reason=f"no Spider below {DATA}")
def test_spider_golds_judged_against_each_other_agree_with_plain_sqlite() -> None:
    """Neighbouring golds ask similar things, so many of them nearly agree."""
    pairs = json.loads((DATA / "spider" / "dev.json").read_text())
    folder = DATA / "spider" / "database"
    names = sorted({p["db_id"] for p in pairs})
    checked = right = ordered_wrong = 0
    with Executor(threads=2) as one:
        for name in names:
            path = folder / name / f"{name}.sqlite"
            if not path.exists():
                continue
            queries = sorted({p["query"].rstrip("; ") for p in pairs if p["db_id"] == name})[:24]
            # With an order added, so that some differ in nothing else.
            queries += [q + " ORDER BY 1 DESC" for q in queries[::3] if "ORDER" not in q.upper()]
            plain = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
            plain.text_factory = bytes
            results = [[canonical_row(r) for r in plain.execute(q)] for q in queries]
            columns = [len(plain.execute(q).description) for q in queries]
            plain.close()
            judged = one.verify([(path, gold, queries) for gold in queries])
            for i, gold in enumerate(queries):
                order = sqlglot.parse_one(gold, read="sqlite").find(exp.Order)
                outer = order is not None and order.find_ancestor(exp.Subquery) is None
                for k, judgement in enumerate(judged[i]):
                    checked += 1
                    same_bag = columns[i] == columns[k] and Counter(results[i]) == Counter(
                        results[k]
                    )
                    verdict = judgement.verdict is Verdict.RIGHT
                    right += verdict
                    if not outer or not same_bag or results[i] == results[k]:
                        assert verdict == same_bag, (name, gold, queries[k], judgement.reason)
                    else:
                        ordered_wrong += not verdict
    assert checked > 5000
    assert right > 500
    assert ordered_wrong > 10
