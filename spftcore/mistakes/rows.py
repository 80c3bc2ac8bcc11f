"""What two results say about the mistake, whatever the queries look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

Rows = Sequence[tuple[Any, ...]]

# Of a column by its values there are more candidates than this only where all hold the same.
_MOST_ARRANGEMENTS = 200


def result_mistakes(gold: Rows, answer: Rows, ordered: bool) -> tuple[str, ...]:
    """Classes that the results prove; empty when they prove none.

    Args:
        gold, answer: all rows of both.
        ordered: the gold's outermost query has an ORDER BY.
    """
    if not gold or not answer:
        return ()
    g, a = [_row(row) for row in gold], [_row(row) for row in answer]
    width, found = len(g[0]), len(a[0])
    bag, other = Counter(g), Counter(a)
    if width == found:
        if bag == other:
            return ("order",) if ordered and g != a else ()
        if bag.keys() == other.keys():
            return ("distinct",)
        if width > 1 and len(g) == len(a) and _arranged(g, a):
            return ("order of columns",)
        return ()
    if len(g) != len(a):
        return ()
    if found > width and _arranged(g, a):
        return ("extra columns",)
    if found < width and _arranged(a, g):
        return ("missing columns",)
    return ()


def _arranged(narrow: list[tuple[Any, ...]], wide: list[tuple[Any, ...]]) -> bool:
    """Whether some columns of the wide result, in some order, are the narrow result."""
    wanted = [Counter(column) for column in zip(*narrow, strict=True)]
    there = [Counter(column) for column in zip(*wide, strict=True)]
    fits = [[j for j, have in enumerate(there) if have == want] for want in wanted]
    if not all(fits):
        return False
    bag = Counter(narrow)
    tried = 0
    stack: list[tuple[int, ...]] = [()]
    while stack and tried < _MOST_ARRANGEMENTS:
        chosen = stack.pop()
        if len(chosen) == len(fits):
            tried += 1
            if Counter(tuple(row[j] for j in chosen) for row in wide) == bag:
                return True
            continue
        stack += [(*chosen, j) for j in reversed(fits[len(chosen)]) if j not in chosen]
    return False


def _row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Floats to 12 significant digits, as `bag` compares them."""
    return tuple(float(f"{value:.12g}") if isinstance(value, float) else value for value in row)
