"""What an answer does differently from its gold, part by part, as classes of mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from spftcore.mistakes.parts import NESTED, Block, Columns, Compound, Condition, Shape, Term

# (class of mistake, clause it was found in); the clause is what a repair would exchange.
Difference = tuple[str, str]

_T = TypeVar("_T")
_MOST_RANKED = 10_000  # pairs of parts; beyond, parts stand for each other by their places


def differences(gold: Shape, answer: Shape) -> list[Difference]:
    """The differences of two queries, each once, in the order in which they were found."""
    return list(dict.fromkeys(_shapes(gold, answer, "")))


def _shapes(gold: Shape, answer: Shape, inside: str) -> Iterator[Difference]:
    if isinstance(gold, Compound) and isinstance(answer, Compound):
        yield from _compounds(gold, answer, inside)
    elif isinstance(gold, Block) and isinstance(answer, Block):
        yield from _blocks(gold, answer, inside)
    else:
        yield "set operation", inside or "query"
        g, a = _first(gold), _first(answer)
        if len(g.outputs) != len(a.outputs):
            yield _width(len(g.outputs), len(a.outputs)), inside or "query"


def _first(shape: Shape) -> Block:
    while isinstance(shape, Compound):
        shape = shape.left
    return shape


def _compounds(gold: Compound, answer: Compound, inside: str) -> Iterator[Difference]:
    if gold.kind != answer.kind:
        yield "set operation", inside or "query"
    found = list(_shapes(gold.left, answer.left, inside or "query"))
    found += _shapes(gold.right, answer.right, inside or "query")
    if gold.kind != "except" and found:  # the sides of the others may change places
        turned = list(_shapes(gold.left, answer.right, inside or "query"))
        turned += _shapes(gold.right, answer.left, inside or "query")
        found = min(found, turned, key=len)
    elif found:
        turned = list(_shapes(gold.left, answer.right, inside or "query"))
        turned += _shapes(gold.right, answer.left, inside or "query")
        if not turned:
            found = [("set operation", inside or "query")]
    yield from found
    yield from _order(gold.order, answer.order, inside or "query")
    if gold.limit != answer.limit:
        yield "limit", inside or "query"


def _blocks(gold: Block, answer: Block, inside: str) -> Iterator[Difference]:
    def at(clause: str) -> str:
        return inside or clause

    missing, extra = gold.tables - answer.tables, answer.tables - gold.tables
    nesting = Counter(clause for clause, _ in gold.inner) != Counter(c for c, _ in answer.inner)
    tables_missing = {t for t in missing if t != NESTED}
    tables_extra = {t for t in extra if t != NESTED}
    if tables_missing and tables_extra:
        yield "table", at("from")
    elif tables_missing or tables_extra:
        yield ("nesting" if nesting and NESTED in (missing | extra) else "join"), at("from")
    elif _classes(gold) != _classes(answer) or _odd(gold) != _odd(answer):
        yield "join", at("from")
    implied = _Implied(tables_missing, tables_extra)
    yield from ((kind, at("select")) for kind in _outputs(gold, answer, implied))
    if gold.distinct != answer.distinct:
        yield "distinct", at("distinct")
    where = list(_conditions(gold.where, answer.where, implied, nesting))
    having = list(_conditions(gold.having, answer.having, implied, nesting))
    yield from ((kind, at("where")) for kind in where)
    yield from ((kind, at("group")) for kind in _groups(gold, answer, implied))
    yield from ((kind, at("having")) for kind in having)
    yield from _order(gold.order, answer.order, at("order"), implied)
    if gold.limit != answer.limit:
        yield "limit", at("limit")
    if nesting:
        yield "nesting", at("query")
        return
    for (clause, g), (_, a) in zip(_by_clause(gold), _by_clause(answer), strict=True):
        yield from _shapes(g, a, at("query" if clause == "expressions" else clause))


def _by_clause(block: Block) -> list[tuple[str, Shape]]:
    return sorted(block.inner, key=lambda item: item[0])


class _Implied:
    """Column differences that a table read instead of another brings with it."""

    def __init__(self, missing: set[str], extra: set[str]) -> None:
        self.missing, self.extra = missing, extra

    def __call__(self, gold: Sequence[str], answer: Sequence[str]) -> bool:
        only_gold = Counter(gold) - Counter(answer)
        only_answer = Counter(answer) - Counter(gold)
        if not (only_gold or only_answer):
            return True
        return bool(self.missing and self.extra) and (
            all(_table(column) in self.missing for column in only_gold)
            and all(_table(column) in self.extra for column in only_answer)
        )


def _table(column: str) -> str:
    return column.partition(".")[0].partition("#")[0]


def _classes(block: Block) -> set[frozenset[str]]:
    """The sets of columns that the joins equate: which pair of a set is written does not matter."""
    columns = Columns()
    for one, other in block.linked:
        columns.link(one, other)
    sets: dict[str, set[str]] = {}
    for column in {c for pair in block.linked for c in pair}:
        sets.setdefault(columns(column), set()).add(column)
    return {frozenset(members) for members in sets.values()}


def _odd(block: Block) -> tuple[list[tuple[str, int]], list[str]]:
    return sorted(block.sides.items()), sorted(one.code for one in block.odd_joins)


def _outputs(gold: Block, answer: Block, implied: _Implied) -> Iterator[str]:
    g, a = gold.outputs, answer.outputs
    codes = [term.code for term in g], [term.code for term in a]
    if codes[0] == codes[1]:
        return
    if Counter(codes[0]) == Counter(codes[1]):
        yield "order of columns"
        return
    left, right = _unmatched(g, a, lambda term: term.code)
    pairs, left, right = _pair(left, right, _likeness)
    for one, other in pairs:
        yield from term_differences(one, other, implied)
    if left or right:
        yield _width(len(g), len(a))


def _width(gold: int, answer: int) -> str:
    return "missing columns" if answer < gold else "extra columns"


def _unmatched(
    gold: Sequence[_T], answer: Sequence[_T], code: Callable[[_T], str]
) -> tuple[list[_T], list[_T]]:
    """What is left of both when equal ones are crossed out."""
    rest = Counter(code(one) for one in answer)
    left = []
    for one in gold:
        if rest[code(one)]:
            rest[code(one)] -= 1
        else:
            left.append(one)
    right = []
    for one in reversed(answer):
        if rest[code(one)]:
            rest[code(one)] -= 1
            right.append(one)
    return left, right[::-1]


def _pair(
    gold: list[_T], answer: list[_T], likeness: Callable[[_T, _T], int]
) -> tuple[list[tuple[_T, _T]], list[_T], list[_T]]:
    """The most alike first; as many pairs as the shorter has members."""
    if len(gold) * len(answer) > _MOST_RANKED:
        both = min(len(gold), len(answer))
        return list(zip(gold, answer, strict=False)), gold[both:], answer[both:]
    ranked = sorted(
        (-likeness(g, a), i, j) for i, g in enumerate(gold) for j, a in enumerate(answer)
    )
    used_gold: set[int] = set()
    used_answer: set[int] = set()
    pairs = []
    for _, i, j in ranked:
        if i not in used_gold and j not in used_answer:
            used_gold.add(i)
            used_answer.add(j)
            pairs.append((gold[i], answer[j]))
    left = [one for i, one in enumerate(gold) if i not in used_gold]
    return pairs, left, [one for j, one in enumerate(answer) if j not in used_answer]


def _likeness(one: Term, other: Term) -> int:
    return (
        4 * (one.columns == other.columns)
        + 2 * (one.aggregates == other.aggregates)
        + (one.literals == other.literals)
    )


def term_differences(gold: Term, answer: Term, implied: _Implied) -> list[str]:
    """Classes of difference between two expressions that stand for each other."""
    if gold.code == answer.code:
        return []
    found = []
    counted = gold.aggregates == answer.aggregates == ("count",)
    if gold.aggregates != answer.aggregates:
        found.append("aggregate")
    if gold.distinct != answer.distinct:
        found.append("distinct")
    elif counted and "count(*)" in (gold.code, answer.code):
        found.append("aggregate")
    if not implied(gold.columns, answer.columns) and not (found and _counts_rows(gold, answer)):
        found.append("column")
    if gold.literals != answer.literals:
        found.append("value")
    if not found and gold.columns == answer.columns:
        found.append("expression")
    return found


def _counts_rows(gold: Term, answer: Term) -> bool:
    return "count(*)" in gold.code or "count(*)" in answer.code


def _conditions(
    gold: Sequence[Condition], answer: Sequence[Condition], implied: _Implied, nesting: bool
) -> Iterator[str]:
    left, right = _unmatched(gold, answer, lambda one: one.code)
    pairs, left, right = _pair(left, right, _alike)
    for one, other in pairs:
        if _alike(one, other) == 0:
            left.append(one)
            right.append(other)
        else:
            yield from _condition(one, other, implied, nesting)
    for one in left + right:
        if not (nesting and _nested(one)):
            yield "condition"


def _nested(one: Condition) -> bool:
    return NESTED in one.code


def _alike(one: Condition, other: Condition) -> int:
    one, other = _alternatives(one, other), _alternatives(other, one)
    if one.parts or other.parts:
        return 3 * (bool(one.parts) and bool(other.parts)) + _shared(one, other)
    return (
        4 * (one.left.code == other.left.code)
        + 2 * (one.left.columns == other.left.columns and bool(one.left.columns))
        + 3 * (one.right.code == other.right.code)
        + (one.operator == other.operator and _kind(one.right) == _kind(other.right))
    )


def _shared(one: Condition, other: Condition) -> int:
    codes = [{c.code for c in x.parts} or {x.code} for x in (one, other)]
    return len(codes[0] & codes[1])


def _kind(term: Term) -> str:
    return "nested" if NESTED in term.code else "column" if term.columns else "value"


def _condition(
    gold: Condition, answer: Condition, implied: _Implied, nesting: bool
) -> Iterator[str]:
    if gold.parts or answer.parts:
        gold, answer = _alternatives(gold, answer), _alternatives(answer, gold)
        if gold.operator != answer.operator:
            yield "condition"
            return
        yield from _conditions(gold.parts, answer.parts, implied, nesting)
        return
    if _kind(gold.right) != _kind(answer.right):
        if not (nesting and "nested" in (_kind(gold.right), _kind(answer.right))):
            yield "condition"
        return
    if gold.operator != answer.operator:
        yield "condition"
    yield from term_differences(gold.left, answer.left, implied)
    if gold.right.code != answer.right.code and gold.operator == answer.operator:
        yield from term_differences(gold.right, answer.right, implied)


def _alternatives(one: Condition, other: Condition) -> Condition:
    """`x in (1, 2)` as `x = 1 or x = 2`, to be compared with an OR."""
    if other.operator != "or" or one.operator not in ("in", "eq") or not one.right.literals:
        return one
    parts = tuple(
        Condition(f"eq({one.left.code} {value})", "eq", one.left, Term(value, (), (value,)))
        for value in one.right.literals
    )
    return Condition(one.code, "or", one.left, one.right, parts)


def _groups(gold: Block, answer: Block, implied: _Implied) -> Iterator[str]:
    left, right = _unmatched(gold.groups, answer.groups, lambda term: term.code)
    for one, other in zip(left, right, strict=False):
        if not implied(one.columns, other.columns):
            yield "grouping"
            return
    if len(left) != len(right):
        yield "grouping"


def _order(
    gold: Sequence[tuple[Term, bool]],
    answer: Sequence[tuple[Term, bool]],
    clause: str,
    implied: _Implied | None = None,
) -> Iterator[Difference]:
    codes = [[(term.code, down) for term, down in terms] for terms in (gold, answer)]
    if codes[0] == codes[1]:
        return
    if len(gold) == len(answer) and implied is not None:
        turned = [x[1] for x in gold] != [x[1] for x in answer]
        pairs = [(g[0], a[0]) for g, a in zip(gold, answer, strict=True)]
        moved = [term_differences(g, a, implied) for g, a in pairs]
        if not turned and not any(moved):
            return
    yield "order", clause
