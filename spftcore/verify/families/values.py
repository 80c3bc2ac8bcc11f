"""Which values a variant may hold: those of the original, those near the literals, fresh ones."""

from __future__ import annotations

import datetime
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spftcore.verify.families.golds import Constant, Gold, Place
from spftcore.verify.families.schema import ColumnRule, Schema

Kind = Literal["integer", "real", "text", "blob"]
Value = int | float | str | bytes | None

_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(.*)", re.DOTALL)
_WHOLE = re.compile(r"-?\d{1,15}")
_LARGEST = 2**63 - 1


def neighbours(value: Constant, pattern: bool = False) -> list[Constant]:
    """The literal first, then values that a slightly different condition would treat otherwise.

    A number: one less, one more, a half away. Text: other case, one character more or less at
    each end; a date or a number written as text: the day or number before and after. A LIKE
    pattern: texts that match it, and texts that match only with a wildcard more or less.
    """
    if isinstance(value, str):
        found = _near_pattern(value) if pattern else _near_text(value)
    elif isinstance(value, int):
        found = [value, value - 1, value + 1, value + 0.5, value - 0.5]
    else:
        found = [value, value - 1, value + 1, value * 1.01, value * 0.99]
    return list(dict.fromkeys(found))


def _near_text(value: str) -> list[Constant]:
    shifted = _shifted(value)
    if shifted:
        return [value, *shifted]
    return [value, value.lower(), value.upper(), f"{value} b", f"a {value}", value[:-1], value[1:]]


def _shifted(value: str) -> list[Constant]:
    """The day or number before and after, in the same writing; empty for other texts."""
    date = _DATE.fullmatch(value)
    if date:
        try:
            day = datetime.date(int(date[1]), int(date[2]), int(date[3]))
            return [
                (day + datetime.timedelta(days=step)).isoformat() + date[4]
                for step in (-1, 1, -31, 366)
            ]
        except (ValueError, OverflowError):
            return []
    if _WHOLE.fullmatch(value):
        return [str(int(value) - 1), str(int(value) + 1)]
    return []


def _near_pattern(pattern: str) -> list[Constant]:
    core = pattern.replace("%", "").replace("*", "")
    filled = core.replace("_", "e").replace("?", "e")
    middle = re.sub(r"[%*]", " x ", pattern.strip("%*")).replace("_", "e")
    return [
        filled,
        f"{filled} x",
        f"x {filled}",
        f"x {filled} x",
        middle,
        filled.upper(),
        filled.lower(),
        filled[:-1],
        filled[1:],
        core.replace("_", "ee"),
    ]


def fit(value: Any, kind: Kind) -> Value:
    """The value in a column's kind, or None where it has no counterpart there."""
    if value is None or kind == "blob":
        return None if isinstance(value, float) and value != value else value
    if kind == "text":
        return value if isinstance(value, bytes) else _as_text(value)
    if isinstance(value, bytes):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        if value != value or abs(value) > _LARGEST:
            return None
        value = int(value) if value.is_integer() else value
    if kind == "integer":
        return int(value) if -_LARGEST < value < _LARGEST else None
    return float(value)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


@dataclass
class Pool:
    """What one column may hold: its kind, its values by frequency, and how they look."""

    kind: Kind
    values: list[Value]
    has_null: bool
    seen: int
    dates: bool
    name: str
    low: float = 0
    high: float = 20

    def fresh(self, rng: random.Random) -> Value:
        """A value in the column's style, in general not among `values`."""
        if self.kind == "integer":
            return rng.randint(int(self.low) - 1, int(self.high) + 2)
        if self.kind == "real":
            return round(rng.uniform(self.low - 1, self.high + 1), 2)
        if self.dates:
            return str(datetime.date(2000, 1, 1) + datetime.timedelta(days=rng.randrange(9000)))
        example = rng.choice(self.values) if self.values else self.name
        if isinstance(example, bytes):
            return example + rng.randbytes(4)
        if isinstance(example, str) and _WHOLE.fullmatch(example):
            return str(int(example) + rng.randint(-3, 12))
        return f"{_as_text(example)} {rng.randrange(1000)}"

    def numbered(self, number: int) -> Value:
        """The value of that number in a row of values without end or repetition."""
        if self.kind == "integer":
            return int(self.high) + number
        if self.kind == "real":
            return self.high + number
        if self.dates:
            return str(datetime.date(1900, 1, 1) + datetime.timedelta(days=number))
        return f"{self.name} {number}" if self.kind == "text" else number.to_bytes(4, "big")


@dataclass
class Space:
    """Pools by column, and classes of columns that share values (keys and joins).

    `near` maps each class to the values near its literals, by the gold that names them.
    """

    pools: dict[Place, Pool]
    classes: dict[Place, int]
    near: dict[int, dict[int, list[Constant]]] = field(default_factory=dict)
    literals: dict[int, dict[int, list[Constant]]] = field(default_factory=dict)


def value_space(schema: Schema, golds: Sequence[Gold]) -> Space:
    """Collect pools, classes and neighbours for a schema and its golds."""
    pools: dict[Place, Pool] = {}
    for key, rule in schema.tables.items():
        rows = schema.rows.get(key, [])
        for i, column in enumerate(rule.columns):
            pools[key, i] = _pool(column, [row[i] for row in rows])
    parent: dict[Place, Place] = {place: place for place in pools}

    def root(place: Place) -> Place:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    links = [link for gold in golds for link in gold.linked]
    for key, rule in schema.tables.items():
        for reference in rule.references:
            for here, there in zip(reference.columns, reference.parent_columns, strict=True):
                links.append(((key, here), (reference.parent, there)))
    for a, b in links:
        if a in parent and b in parent:
            parent[root(a)] = root(b)
    numbers: dict[Place, int] = {}
    classes = {place: numbers.setdefault(root(place), len(numbers)) for place in pools}
    space = Space(pools, classes)
    for number, gold in enumerate(golds):
        for place, value, pattern in gold.compared:
            if place in classes:
                group = classes[place]
                around = neighbours(value, pattern)
                space.near.setdefault(group, {}).setdefault(number, []).extend(around)
                space.literals.setdefault(group, {}).setdefault(number, []).append(around[0])
    return space


def _pool(column: ColumnRule, stored: Iterable[Any]) -> Pool:
    cells = list(stored)
    counted = Counter((type(v).__name__, v) for v in cells if v is not None)
    ordered = [v for (_, v), _ in sorted(counted.items(), key=lambda item: -item[1])]
    types = Counter(type(v) for v in cells if v is not None)
    kind = _kind(column, types)
    fitting = [fit(value, kind) for value in ordered]
    values: list[Value] = list(dict.fromkeys(v for v in fitting if v is not None))
    texts = [v for v in values if isinstance(v, str)]
    declared = column.declared.upper()
    dates = bool(texts) and all(_DATE.fullmatch(t) for t in texts[:50])
    if not values and ("DATE" in declared or "TIME" in declared):
        dates, kind = True, "text"
    name = column.name or "value"
    pool = Pool(kind, values, None in cells, len(cells), dates, name)
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    if numbers:
        pool.low, pool.high = min(numbers), max(numbers)
    elif "BOOL" in declared:
        pool.low, pool.high = 1, -1  # fresh values are then 0 and 1
    return pool


def _kind(column: ColumnRule, types: Counter[type]) -> Kind:
    if types:
        # Numbers of both kinds in one column: the wider kind holds them all.
        most = types.most_common(1)[0][0]
        if most in (int, float) and types[float]:
            return "real"
        return {int: "integer", float: "real", str: "text", bytes: "blob"}[most]  # type: ignore[return-value]
    if column.affinity in ("integer", "numeric"):
        return "integer"
    if column.affinity == "real":
        return "real"
    return "text"


@dataclass(frozen=True)
class Profile:
    """How one variant differs from the next.

    Attributes:
        rows: rows of a table of middling size.
        nulls: share of NULL in columns that may hold it.
        near: share of values drawn near literals.
        copies: share of rows that start as a copy of an original row.
        focus: numbers of the golds whose literals this variant favours.
    """

    rows: int
    nulls: float
    near: float
    copies: float
    focus: tuple[int, ...]


SIZES = ((10, 3), (30, 6), (100, 7), (300, 3), (1000, 1))  # rows, weight
WIDTHS = (2, 3, 5, 8, 15, 40, 400)  # distinct values of a column; few make ties and duplicates


def draw_profile(rng: random.Random, hard: Sequence[int]) -> Profile:
    """A profile for a candidate; `hard` are the golds that most need another variant."""
    rows = rng.choices([size for size, _ in SIZES], [weight for _, weight in SIZES])[0]
    focus = tuple(sorted(rng.sample(list(hard), min(len(hard), rng.choice((1, 2, 3, 5))))))
    return Profile(
        rows=rows,
        nulls=rng.choice((0.0, 0.0, 0.05, 0.2)),
        near=rng.choice((0.15, 0.4, 0.7)),
        copies=rng.choice((0.0, 0.3, 0.7)),
        focus=focus,
    )


class Domains:
    """The values of one variant, by class of columns."""

    def __init__(self, space: Space, profile: Profile, rng: random.Random) -> None:
        self.space = space
        self.profile = profile
        self._rng = rng
        members: dict[int, list[Pool]] = {}
        for place, group in space.classes.items():
            members.setdefault(group, []).append(space.pools[place])
        self._domains = {group: self._domain(group, pools) for group, pools in members.items()}
        self._fitted: dict[Place, list[Value]] = {}
        self._weights: dict[Place, list[float]] = {}

    def _domain(self, group: int, pools: list[Pool]) -> list[Value]:
        rng = self._rng
        width = rng.choice(WIDTHS)
        near = self.space.near.get(group, {})
        focused: list[Value] = []
        for number in self.profile.focus:
            focused += self.space.literals.get(group, {}).get(number, [])
            around = near.get(number, [])
            focused += rng.sample(around, min(len(around), 4))
        others: list[Value] = [value for values in near.values() for value in values]
        taken = rng.sample(others, min(len(others), max(1, round(width * self.profile.near))))
        stored: list[Value] = [value for pool in pools for value in pool.values]
        taken += rng.sample(stored, min(len(stored), max(1, width - len(taken))))
        while len(taken) < min(width, 8) and (not stored or rng.random() < 0.3):
            taken.append(rng.choice(pools).fresh(rng))
        return list(dict.fromkeys([*focused, *taken]))

    def values(self, place: Place) -> list[Value]:
        """The values a column draws from, in its own kind."""
        if place not in self._fitted:
            pool = self.space.pools[place]
            fitted = [fit(v, pool.kind) for v in self._domains[self.space.classes[place]]]
            found: list[Value] = list(dict.fromkeys(v for v in fitted if v is not None))
            if not found:
                found = [pool.fresh(self._rng)]
            self._rng.shuffle(found)
            self._fitted[place] = found
            # Uniform, or each value half as likely as the last: counts then differ between groups.
            decay = self._rng.choice((1.0, 0.9, 0.6))
            self._weights[place] = [max(decay**i, 1e-6) for i in range(len(found))]
        return self._fitted[place]

    def draw(self, place: Place, nullable: bool) -> Value:
        """One value for a column."""
        if nullable and self.profile.nulls and self._rng.random() < self.profile.nulls:
            return None
        values = self.values(place)
        return self._rng.choices(values, self._weights[place])[0]

    def fresh(self, place: Place) -> Value:
        """A value for a column that must not repeat."""
        pool = self.space.pools[place]
        if pool.kind == "integer":
            return self._rng.randint(1, max(50, 3 * self.profile.rows, int(pool.high)))
        return pool.fresh(self._rng)
