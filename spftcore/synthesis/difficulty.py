"""How difficult a query is, by Spider's rules, read from the text of a query or a template."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, get_args

Difficulty = Literal["easy", "medium", "hard", "extra"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)

_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\{[^{}]*\}|[A-Za-z_]\w*|[0-9.]+|[^\s]")
_AGGREGATES = frozenset(("count", "sum", "avg", "min", "max", "total", "group_concat"))


@lru_cache(maxsize=16_384)
def difficulty(text: str) -> Difficulty:
    """The class that Spider's evaluation gives a query of this shape.

    Its rules count, in the outermost SELECT: *parts* (WHERE, GROUP BY, ORDER BY, LIMIT, each
    further table, each OR, each LIKE), *extras* (more than one aggregate, more than one result
    column, more than one condition, more than one grouping column), and *nested* SELECTs and set
    operations. What Spider does not know (windows, CASE, CTEs) counts as one more extra each. In
    a template, tables that are only on the way between two others are not counted.

    Args:
        text: a query in the style of `normalise_sql`, or a template's text.
    """
    counts = _Counts(text)
    parts, extras, nested = counts.parts, counts.extras, counts.nested
    if parts <= 1 and extras == 0 and nested == 0:
        return "easy"
    if nested == 0 and ((extras <= 2 and parts <= 1) or (parts <= 2 and extras < 2)):
        return "medium"
    if (
        (extras > 2 and parts <= 2 and nested == 0)
        or (2 < parts <= 3 and extras <= 2 and nested == 0)
        or (parts <= 1 and extras == 0 and nested <= 1)
    ):
        return "hard"
    return "extra"


class _Counts:
    def __init__(self, text: str) -> None:
        tokens = [token.lower() for token in _TOKEN.findall(text)]
        self.parts = 0
        self.nested = max(0, tokens.count("select") - 1)
        aggregates = joins = unknown = 0
        commas = {"select": 0, "group": 0}
        conditions = 0
        clause, opened = "", []  # for each open parenthesis: does it hold a SELECT
        for number, token in enumerate(tokens):
            following = tokens[number + 1] if number + 1 < len(tokens) else ""
            if token == "(":
                opened.append(following in ("select", "with"))
            elif token == ")":
                opened = opened[:-1]
            if any(opened):
                continue
            if token in ("union", "intersect", "except"):
                break
            if token in ("select", "from", "where", "group", "having", "order", "limit"):
                clause = token
                self.parts += token in ("where", "group", "order", "limit")
                conditions += token == "where"
            elif token in ("join", "or", "like"):
                self.parts += 1
                joins += token == "join"
                conditions += token == "or" and clause == "where"
            elif token == "and":
                between = "between" in tokens[max(0, number - 2) : number]
                conditions += clause == "where" and not between
            elif token in ("over", "case", "with"):
                unknown += 1
            elif token == "," and not opened:
                self.parts += clause == "from"
                if clause in commas:
                    commas[clause] += 1
            aggregates += token in _AGGREGATES and following == "("
        self.extras = (
            (aggregates > 1)
            + (commas["select"] > 0)
            + (conditions > 1)
            + (commas["group"] > 0)
            + unknown
        )
