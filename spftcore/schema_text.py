"""A part of a schema as text: as CREATE TABLE statements, or one line per table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from spftcore.databases import Column
from spftcore.linking.schema import SchemaView, TableView
from spftcore.linking.values import ValueMatch
from spftcore.synthesis.sql_text import identifier

SchemaStyle = Literal["ddl", "compact"]

_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
LONGEST_COMMENT = 120  # characters of a column's comment that are shown


@dataclass(frozen=True, slots=True)
class Detail:
    """What is said of a column besides its name, type and keys."""

    examples: bool = True
    comments: bool = True


def schema_text(view: SchemaView, style: SchemaStyle, detail: Detail) -> str:
    """The tables of a view in the schema's order.

    `ddl`: CREATE TABLE statements, with names in words, comments and frequent values behind the
    columns. `compact`: `table(column:type pk, column:type -> table.column, …)`, a line each.
    """
    keys = {
        (key.table.lower(), key.column.lower()): (
            identifier(key.ref_table),
            identifier(key.ref_column),
        )
        for key in view.foreign_keys
    }
    render: Callable[[TableView, _Keys, Detail], str] = _ddl if style == "ddl" else _compact
    return "\n".join(render(table, keys, detail) for table in view.tables)


_Keys = dict[tuple[str, str], tuple[str, str]]


def _ddl(view: TableView, keys: _Keys, detail: Detail) -> str:
    lines = []
    for column in view.columns:
        line = f"  {identifier(column.name)} {_type(column)}"
        if column.primary_key:
            line += " primary key"
        key = keys.get((view.table.name.lower(), column.name.lower()))
        if key:
            line += f" references {key[0]} ({key[1]})"
        notes = _notes(column, detail, "e.g. ")
        lines.append(f"{line}, -- {notes}" if notes else f"{line},")
    return "\n".join([f"create table {identifier(view.table.name)} (", *lines, ");"])


def _compact(view: TableView, keys: _Keys, detail: Detail) -> str:
    parts = []
    for column in view.columns:
        part = f"{identifier(column.name)}:{_type(column)}"
        if column.primary_key:
            part += " pk"
        key = keys.get((view.table.name.lower(), column.name.lower()))
        if key:
            part += f" -> {key[0]}.{key[1]}"
        notes = _notes(column, detail, "")
        parts.append(f"{part} ({notes})" if notes else part)
    return f"{identifier(view.table.name)}({', '.join(parts)})"


def _type(column: Column) -> str:
    return " ".join(column.declared_type.lower().split()) or column.kind


def _notes(column: Column, detail: Detail, examples: str) -> str:
    notes = []
    if detail.comments:
        if column.natural_name and column.natural_name != column.name.lower():
            notes.append(one_line(column.natural_name))
        if column.comment:
            notes.append(one_line(column.comment)[:LONGEST_COMMENT])
    if detail.examples and column.examples and not column.primary_key and not column.sensitive:
        shown = [text for text in map(literal, column.examples) if on_one_line(text)]
        if shown:
            notes.append(examples + ", ".join(shown))
    return "; ".join(notes)


def one_line(text: str) -> str:
    """A text without line breaks, which would end a comment of a prompt."""
    return " ".join(text.split())


def on_one_line(text: str) -> bool:
    """Whether a text has neither line breaks nor control characters besides the tabulator."""
    return not _BREAK.search(text)


def condition(match: ValueMatch) -> str:
    """A value as a condition of SQL, so that the model can copy it token by token."""
    return f"{identifier(match.table)}.{identifier(match.column)} = {literal(match.value)}"


def literal(value: str | int | float) -> str:
    """A value as a literal of SQL."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
