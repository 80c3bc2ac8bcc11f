"""Templates: SQL with typed slots as text a person can read and edit.

A template is one line of SQL in which

    {a}                     is a table; {a#2} a second copy of the same table (a self-join)
    {a.1: number}           is a column of {a}: number, text, date, boolean, other; `pk` or `fk`
                            for a key, `fk b` for a key that refers to {b}, `like b.2` for a
                            column that is compared with {b.2}; later mentions are {a.1}
    {a.*}                   is all columns of {a}
    {v1 = a.1}              is a value that occurs in {a.1}
    {v1 > a.1} {v1 < a.1}   is a value with some of {a.1} above it, or below it
    {v1 low a.1} {v2 high a.1}                          are the ends of a range of {a.1}
    {v1 contains a.1} {v1 starts a.1} {v1 ends a.1}     are LIKE patterns
    {v1 sum a.1}            is a bound for a sum of {a.1}
    {v1 count} {v1 limit}   are small whole numbers

`from {a} join {b}` without `on` means the smallest join tree through foreign keys.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

KINDS = frozenset(("number", "text", "date", "boolean", "other"))
AGGREGATES = frozenset(("count", "sum", "avg", "min", "max", "total", "group_concat"))
VALUE_OPERATIONS = frozenset(
    ("=", ">", "<", "low", "high", "contains", "starts", "ends", "sum", "count", "limit")
)

Clause = Literal["select", "from", "where", "group", "having", "order", "limit", ""]


class TemplateError(ValueError):
    """A query that gives no template, or a template text that is malformed."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


@dataclass(frozen=True)
class ColumnSlot:
    """A column to choose: `kind` None takes any; `refers` and `like` name other slots."""

    name: str
    table: str
    kind: str | None
    primary: bool = False
    foreign: bool = False
    refers: str = ""
    like: str = ""

    @property
    def key(self) -> bool:
        return self.primary or self.foreign


@dataclass(frozen=True)
class ValueSlot:
    """A literal to draw; `column` is the slot it is compared with ('' for count and limit)."""

    name: str
    operation: str
    column: str


@dataclass(frozen=True)
class ColumnMention:
    """A column slot at one place of the text; `instance` says which copy of its table."""

    slot: str
    instance: str
    scope: int
    clause: Clause
    function: str  # the innermost function around it, '' for none
    bare: bool  # follows `alias.`, so it is printed without a qualifier


@dataclass(frozen=True)
class ValueMention:
    """A value slot at one place of the text."""

    slot: str
    scope: int


@dataclass(frozen=True)
class TableMention:
    """A table in a FROM clause whose join conditions the template spells out."""

    instance: str
    scope: int


@dataclass(frozen=True)
class FromMention:
    """A FROM clause to be rebuilt through foreign keys over these tables."""

    instances: tuple[str, ...]
    scope: int


@dataclass(frozen=True)
class StarMention:
    """All columns of one table of a FROM clause (`t.*`)."""

    instance: str
    scope: int


Part = str | ColumnMention | StarMention | ValueMention | TableMention | FromMention


@dataclass
class TemplateScope:
    """What one SELECT of a template reads and has."""

    parent: int | None
    instances: list[str] = field(default_factory=list)
    implicit: bool = False
    derived: int = 0
    aggregates: bool = False  # an aggregate stands in its SELECT list
    clauses: set[str] = field(default_factory=set)


_TOKEN = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\{[^{}]*\}|[A-Za-z_][A-Za-z0-9_]*|[0-9.]+|\s+|."
)
_TABLE = re.compile(r"([a-z]+)(#\d+)?\Z")
_STAR = re.compile(r"([a-z]+(?:#\d+)?)\.\*\Z")
_COLUMN = re.compile(r"([a-z]+)(#\d+)?\.(\d+)(?::\s*(.*))?\Z")
_VALUE = re.compile(r"(v\d+)(?:\s+(\S+)(?:\s+([a-z]+\.\d+))?)?\Z")
_IMPLICIT = re.compile(
    r"from (\{[a-z]+(?:#\d+)?\}(?: join \{[a-z]+(?:#\d+)?\})+)(?! on\b| join\b| left\b)"
)
_CLAUSE_WORDS: dict[str, Clause] = {
    "from": "from",
    "where": "where",
    "group": "group",
    "having": "having",
    "order": "order",
    "limit": "limit",
}
_NOT_FUNCTIONS_TEXT = """
    in and or not on where when then else by select exists as over having from join between like
"""
_NOT_FUNCTIONS = frozenset(_NOT_FUNCTIONS_TEXT.split())


@dataclass(frozen=True)
class Template:
    """One template; its text is all there is to it, and its id is a hash of the text."""

    text: str

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @cached_property
    def compiled(self) -> CompiledTemplate:
        """The parsed text. Raises TemplateError when it is malformed."""
        return CompiledTemplate(self.text)


class CompiledTemplate:
    """A template's text taken apart: slots, parts in order, and the SELECTs they stand in."""

    def __init__(self, text: str) -> None:
        self.tables: list[str] = []
        self.columns: dict[str, ColumnSlot] = {}
        self.values: dict[str, ValueSlot] = {}
        self.scopes: list[TemplateScope] = []
        self.parts: list[Part] = []
        self.stars = False  # all columns of some table are among the results
        self._parse(text)
        self.mentions = [part for part in self.parts if isinstance(part, ColumnMention)]
        self._check_slots()

    def _check_slots(self) -> None:
        instances = {instance for scope in self.scopes for instance in scope.instances}
        for slot in self.values.values():
            if (slot.operation in ("count", "limit")) == bool(slot.column):
                raise TemplateError("malformed template", f"{{{slot.name} {slot.operation} …}}")
            if slot.column and slot.column not in self.columns:
                raise TemplateError("malformed template", f"{slot.name} names no column slot")
        for column in self.columns.values():
            if column.table not in self.tables:
                raise TemplateError("malformed template", f"no table for {column.name}")
            if column.like and column.like not in self.columns:
                raise TemplateError("malformed template", f"{column.name} is like no column slot")
            if column.refers and column.refers not in self.tables:
                raise TemplateError("malformed template", f"{column.name} refers to no table slot")
        for part in self.parts:
            if isinstance(part, ColumnMention | StarMention) and part.instance not in instances:
                raise TemplateError("malformed template", f"no FROM reads {{{part.instance}}}")

    def _parse(self, text: str) -> None:
        implicit = {match.start(1): match for match in _IMPLICIT.finditer(text)}
        frames: list[list[Any]] = [[None, "", ""]]  # scope, clause, function of each open paren
        previous, position, literal = "", 0, ""
        while position < len(text):
            if position in implicit and frames[-1][0] is not None:
                match = implicit[position]
                instances = tuple(re.findall(r"\{([^{}]*)\}", match.group(1)))
                self._flush(literal)
                literal = ""
                for instance in instances:
                    self._add_table(instance, frames[-1][0])
                self.scopes[frames[-1][0]].implicit = True
                self.parts.append(FromMention(instances, frames[-1][0]))
                position, previous = match.end(1), "}"
                continue
            token_match = _TOKEN.match(text, position)
            assert token_match is not None
            token = token_match.group()
            position = token_match.end()
            if token[0] == "{":
                self._flush(literal)
                literal = ""
                self.parts.append(self._slot(token[1:-1].strip(), frames, previous == "."))
            else:
                literal += token
                self._word(token.lower(), frames, previous)
            if not token.isspace():
                previous = token.lower()
        self._flush(literal)
        if not self.scopes:
            raise TemplateError("malformed template", "no SELECT")

    def _flush(self, literal: str) -> None:
        if literal:
            self.parts.append(literal)

    def _word(self, token: str, frames: list[list[Any]], previous: str) -> None:
        frame = frames[-1]
        if token == "*" and previous in ("select", "distinct", "all", ",", "."):
            self.stars = True
        if token == "(":
            is_call = bool(re.match(r"[a-z_]", previous)) and previous not in _NOT_FUNCTIONS
            if frame[1] == "from" and previous in ("from", "join", ",") and frame[0] is not None:
                self.scopes[frame[0]].derived += 1
            if is_call and previous in AGGREGATES and frame[0] is not None and frame[1] == "select":
                self.scopes[frame[0]].aggregates = True
            frames.append([frame[0], frame[1], previous if is_call else frame[2]])
        elif token == "case":  # sum(case when x = 1 …) does not sum x
            frames.append([frame[0], frame[1], "case"])
        elif token in (")", "end"):
            if len(frames) == 1:
                raise TemplateError("malformed template", "unbalanced parentheses")
            frames.pop()
        elif token == "select":
            outer = frames[-2][0] if len(frames) > 1 else None
            self.scopes.append(TemplateScope(outer))
            frame[:] = [len(self.scopes) - 1, "select", ""]
        elif frame[0] is not None and token in _CLAUSE_WORDS and not frame[2]:
            frame[1] = _CLAUSE_WORDS[token]
            self.scopes[frame[0]].clauses.add(token)
        elif frame[0] is not None and frame[1] == "from" and previous in ("from", "join"):
            # Not a slot: a derived table in parentheses is counted above, this is a CTE's name.
            self.scopes[frame[0]].derived += bool(re.match(r"[a-z_\"]", token))

    def _slot(self, inside: str, frames: list[list[Any]], after_dot: bool) -> Part:
        scope, clause, function = frames[-1]
        if scope is None:
            raise TemplateError("malformed template", f"{{{inside}}} outside a SELECT")
        if match := _TABLE.match(inside):
            self._add_table(inside, scope)
            return TableMention(inside, scope)
        if match := _STAR.match(inside):
            self.stars = True
            return StarMention(match.group(1), scope)
        if match := _COLUMN.match(inside):
            table, copy, number, described = match.groups()
            name = f"{table}.{number}"
            if described is not None:
                self.columns[name] = _column_slot(name, table, described)
            elif name not in self.columns:
                raise TemplateError("malformed template", f"{{{name}}} is not described")
            return ColumnMention(name, table + (copy or ""), scope, clause, function, after_dot)
        if match := _VALUE.match(inside):
            name, operation, column = match.groups()
            if operation is not None:
                if operation not in VALUE_OPERATIONS:
                    raise TemplateError("malformed template", f"{{{inside}}}")
                self.values[name] = ValueSlot(name, operation, column or "")
            elif name not in self.values:
                raise TemplateError("malformed template", f"{{{name}}} is not described")
            return ValueMention(name, scope)
        raise TemplateError("malformed template", f"{{{inside}}}")

    def _add_table(self, instance: str, scope: int) -> None:
        table = instance.split("#")[0]
        if table not in self.tables:
            self.tables.append(table)
        self.scopes[scope].instances.append(instance)


def _column_slot(name: str, table: str, described: str) -> ColumnSlot:
    words = described.split()
    kind = words.pop(0) if words and words[0] in KINDS else None
    primary = bool(words) and words[0] == "pk"
    if primary:
        words.pop(0)
    foreign, refers, like = False, "", ""
    if words and words[0] == "fk":
        foreign = True
        words.pop(0)
        if words and words[0] != "like":
            refers = words.pop(0)
    if len(words) == 2 and words[0] == "like":
        like = words[1]
    elif words:
        raise TemplateError("malformed template", f"{{{name}: {described}}}")
    return ColumnSlot(name, table, kind, primary, foreign, refers, like)
