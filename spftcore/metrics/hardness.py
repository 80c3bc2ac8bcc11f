"""How hard a query is by the rules of Spider's evaluation, read from its text or a template's."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

from spftcore.metrics.words import Word, words

Hardness = Literal["easy", "medium", "hard", "extra"]
CLASSES: tuple[Hardness, ...] = get_args(Hardness)

_AGGREGATES = frozenset(("count", "sum", "avg", "min", "max", "total", "group_concat"))
_SET_OPERATIONS = frozenset(("union", "intersect", "except"))
_CLAUSES = frozenset(("select", "from", "where", "group", "having", "order", "limit"))
# Where Spider's parser stops reading a column that a condition compares with.
_ENDS = frozenset((",", ")", ";", "and", "join", "on", "as")) | _CLAUSES | _SET_OPERATIONS
_COMPARISONS = frozenset(("=", "==", "<", ">", "<=", ">=", "!=", "<>", "like", "in"))


@lru_cache(maxsize=16_384)
def hardness(sql: str) -> Hardness:
    """The class that Spider's evaluation gives a query; `docs/evaluation.md` states the rules.

    What Spider's parser does not read has a class too: windows, CASE and CTEs count as one more
    extra each, sub-queries in the SELECT list and in ORDER BY as nested.

    Args:
        sql: a query, or a template's text.
    """
    counts = _Counts(sql)
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
    """Counts over the first SELECT of the outermost query.

    Attributes:
        parts: WHERE, GROUP BY, ORDER BY, LIMIT, each further table, each OR, each LIKE.
        extras: more than one aggregate, result column, condition of WHERE, grouping column.
        nested: sub-queries in conditions, and a set operation; not what these hold in turn.
    """

    def __init__(self, sql: str) -> None:
        self.parts = self.nested = 0
        aggregates = conditions = unknown = 0
        columns = {"select": 0, "group": 0}
        clause = ""
        in_on = False
        text = words(sql)
        outer = [i for i, word in enumerate(text) if word.selects == 0 or _opens(text, i)]
        skip_to_end = False
        for place, number in enumerate(outer):
            word = text[number]
            token = word.text
            following = text[number + 1].text if number + 1 < len(text) else ""
            before = text[outer[place - 1]].text if place else ""
            if skip_to_end and token not in _ENDS:
                continue
            skip_to_end = False
            if word.selects:
                self.nested += clause != "from" or in_on
            elif token in _SET_OPERATIONS and word.kind == "name":
                self.nested += 1
                break
            elif token in _CLAUSES and word.kind == "name" and not word.brackets:
                clause, in_on = token, False
                self.parts += token in ("where", "group", "order", "limit")
                conditions += token == "where"
                columns["group"] += token == "group"
            elif token == "join":
                self.parts += 1
                in_on = False
            elif token == "on":
                in_on = True
            elif token == "like":
                self.parts += 1
            elif token in ("and", "or"):
                self.parts += token == "or"
                if token == "or" or not _closes_between(text, number):
                    conditions += clause == "where"
                    # Spider counts whatever is true in the place of an aggregate's number, and
                    # in HAVING it looks at the connectives too.
                    aggregates += clause == "having"
            elif token == "not":
                aggregates += clause in ("where", "having") and before != "is"
            elif token in ("over", "case", "with"):
                unknown += 1
            elif token == "," and not word.brackets:
                if clause == "from":
                    self.parts += 1
                    in_on = False
                if clause in columns:
                    columns[clause] += 1
            elif token in _AGGREGATES and following == "(":
                aggregates += clause in ("select", "group", "order")
            if token in _COMPARISONS and (clause in ("where", "having") or in_on):
                skip_to_end = _is_column(text, number + 1)
        self.extras = (
            (aggregates > 1)
            + (columns["select"] > 0)
            + (conditions > 1)
            + (columns["group"] > 1)
            + unknown
        )


def _opens(text: list[Word], number: int) -> bool:
    """Whether a sub-query of the outermost query begins here."""
    word = text[number]
    return word.text == "(" and word.selects == 1 and word.brackets == 0 and _selects(text, number)


def _selects(text: list[Word], number: int) -> bool:
    return number + 1 < len(text) and text[number + 1].text in ("select", "with", "values")


def _closes_between(text: list[Word], number: int) -> bool:
    """Whether this AND belongs to a BETWEEN."""
    level = text[number].selects, text[number].brackets
    for word in reversed(text[:number]):
        if (word.selects, word.brackets) == level and word.kind == "name":
            if word.text == "between":
                return True
            if word.text in ("and", "or", "where", "having", "on"):
                return False
    return False


def _is_column(text: list[Word], number: int) -> bool:
    """Whether a condition compares with a column: Spider's parser then reads on to the next AND,
    and does not see an OR before it."""
    return number < len(text) and text[number].kind == "name" and text[number].text != "null"
