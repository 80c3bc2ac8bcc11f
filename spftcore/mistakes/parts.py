"""The parts of a query: what `shape` reads it into and `differences` compares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sqlglot import exp

NESTED = "(select)"  # stands in an expression for a query inside it, which is compared by itself


@dataclass(frozen=True)
class Term:
    """An expression in pieces.

    Attributes:
        code: the whole; equal for expressions that mean the same however they are written.
        columns, literals, aggregates: what it is made of, each sorted.
        distinct: it holds an aggregate over distinct values.
    """

    code: str
    columns: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()
    aggregates: tuple[str, ...] = ()
    distinct: bool = False


@dataclass(frozen=True)
class Condition:
    """One condition of a WHERE or HAVING.

    Attributes:
        code: the whole.
        operator: `lt`, `not like`, … ; `and` or `or` for one that is made of `parts`.
        left, right: its sides; the right one holds all values of IN.
    """

    code: str
    operator: str
    left: Term
    right: Term
    parts: tuple[Condition, ...] = ()


@dataclass
class Block:
    """One SELECT.

    Attributes:
        tables: base tables and inner queries of FROM, with how often each is read.
        linked: sets of columns that inner joins equate, as (column, column) pairs.
        sides: kinds of outer joins.
        inner: queries inside it, by the clause they stand in (`from`, `select`, `where`, …).
    """

    select: exp.Select
    tables: Counter[str] = field(default_factory=Counter)
    linked: list[tuple[str, str]] = field(default_factory=list)
    sides: Counter[str] = field(default_factory=Counter)
    odd_joins: list[Condition] = field(default_factory=list)
    outputs: list[Term] = field(default_factory=list)
    distinct: bool = False
    where: list[Condition] = field(default_factory=list)
    groups: list[Term] = field(default_factory=list)
    having: list[Condition] = field(default_factory=list)
    order: list[tuple[Term, bool]] = field(default_factory=list)
    limit: tuple[str, str] = ("", "")
    inner: list[tuple[str, Shape]] = field(default_factory=list)


@dataclass
class Compound:
    """Two queries put together by UNION, INTERSECT or EXCEPT."""

    kind: str
    left: Shape
    right: Shape
    order: list[tuple[Term, bool]] = field(default_factory=list)
    limit: tuple[str, str] = ("", "")


Shape = Block | Compound


class Columns:
    """Which columns are the same one because a query joins on their equality."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def link(self, one: str, other: str) -> None:
        a, b = sorted((self(one), self(other)))
        if a != b:
            self._parent[b] = a

    def __call__(self, column: str) -> str:
        """The name that stands for all columns equal to this one."""
        while column in self._parent:
            column = self._parent[column]
        return column
