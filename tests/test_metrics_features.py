"""Clauses and joins of queries, by hand."""

from __future__ import annotations

import pytest

from spftcore.metrics.features import features


@pytest.mark.parametrize(
    ("sql", "clauses", "joins"),
    [
        ("SELECT a FROM t", (), 0),
        ("SELECT a FROM t WHERE b = 'order by x limit 1'", ("where",), 0),
        ("SELECT a FROM t, u WHERE t.x = u.x", ("where", "join"), 1),
        ("SELECT a FROM t JOIN u ON t.x = u.x, v", ("join",), 2),
        ("SELECT a, b FROM t LEFT JOIN u USING (x, y)", ("join",), 1),
        ("SELECT DISTINCT a FROM t ORDER BY b LIMIT 3", ("order by", "limit", "distinct"), 0),
        (
            "SELECT count(*) FROM t GROUP BY a HAVING max(b) > 1",
            ("group by", "having", "aggregate"),
            0,
        ),
        (
            "SELECT a FROM t WHERE b NOT IN (SELECT c FROM u JOIN v)",
            ("where", "join", "nested", "in", "not"),
            1,
        ),
        (
            "SELECT a FROM t UNION SELECT a FROM u WHERE b LIKE 'x' OR c BETWEEN 1 AND 2",
            ("where", "set operation", "like", "between", "or"),
            0,
        ),
        ("SELECT rank() OVER (PARTITION BY a ORDER BY b) FROM t", ("window",), 0),
        ("WITH x AS (SELECT 1) SELECT CASE a WHEN 1 THEN 2 END", ("nested", "case", "cte"), 0),
        ('SELECT t."where", t.[limit] FROM t', (), 0),
        ("SELECT a FROM t WHERE (b, c) IN (VALUES (1, 2), (3, 4))", ("where", "in"), 0),
    ],
)  # fmt: skip
def test_clauses_and_joins(sql: str, clauses: tuple[str, ...], joins: int) -> None:
    found = features(sql)
    assert (found.clauses, found.joins) == (clauses, joins)
