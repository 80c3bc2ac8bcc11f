"""What a query is made of: clauses and joins, by which results are broken down."""

from __future__ import annotations

from dataclasses import dataclass

from spftcore.metrics.words import words

CLAUSES = (
    "where", "group by", "having", "order by", "limit", "join", "distinct", "aggregate", "nested",
    "set operation", "like", "between", "in", "or", "not", "case", "window", "cte",
)  # fmt: skip

_WORDS = {
    "where": "where",
    "group": "group by",
    "having": "having",
    "order": "order by",
    "limit": "limit",
    "join": "join",
    "distinct": "distinct",
    "union": "set operation",
    "intersect": "set operation",
    "except": "set operation",
    "like": "like",
    "between": "between",
    "in": "in",
    "or": "or",
    "not": "not",
    "case": "case",
    "over": "window",
    "with": "cte",
}
_OF_A_SELECT = frozenset(("where", "group", "having", "order", "limit"))
_AGGREGATES = frozenset(("count", "sum", "avg", "min", "max", "total", "group_concat"))


@dataclass(frozen=True, slots=True)
class Features:
    """What a query holds, in all its SELECTs.

    Attributes:
        clauses: of `CLAUSES`, in that order.
        joins: JOINs, and commas between tables of a FROM.
    """

    clauses: tuple[str, ...]
    joins: int


def features(sql: str) -> Features:
    """The features of a query."""
    found = set()
    joins = 0
    text = words(sql)
    clause = {0: ""}  # by depth of sub-queries
    for number, word in enumerate(text):
        token = word.text
        before = text[number - 1].text if number else ""
        following = text[number + 1].text if number + 1 < len(text) else ""
        if word.kind == "name" and before != ".":
            # In brackets: the ORDER BY of a window, the WHERE of a FILTER.
            if token in _WORDS and not (token in _OF_A_SELECT and word.brackets):
                found.add(_WORDS[token])
            if token in _AGGREGATES and following == "(":
                found.add("aggregate")
            if token in ("select", "from", "where", "group", "order", "limit"):
                clause[word.selects] = token
                if token == "select" and word.selects:
                    found.add("nested")
            if token == "join":
                joins += 1
        elif token == "," and not word.brackets and clause.get(word.selects) == "from":
            joins += 1
            found.add("join")
    return Features(tuple(name for name in CLAUSES if name in found), joins)
