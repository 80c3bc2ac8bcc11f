"""What is known of a schema: columns, tables, foreign keys, databases, and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

Kind = Literal["number", "text", "date", "boolean", "other"]
KeyOrigin = Literal["declared", "described", "proposed"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        kind: the declared type where the stored values agree with it, otherwise the kind the
            values have.
        examples: up to three of the most frequent values of a bounded sample; none of a sensitive
            column.
        comment: what the schema, or a description beside the file, says about it in words.
        sensitive: looks personal or secret (`catalogue.sensitive`): its values must not be shown,
            indexed or drawn.
        sorts_as_text: numbers kept as text in an order that is not the numbers' ('9' after '10').
        has_null: NULL stands somewhere in a bounded sample of its values.
    """

    name: str
    declared_type: str
    kind: Kind
    primary_key: bool
    not_null: bool
    examples: tuple[str | int | float, ...]
    natural_name: str
    comment: str = ""
    sensitive: bool = False
    sorts_as_text: bool = False
    has_null: bool = False


@dataclass(frozen=True)
class Table:
    """One table, view or virtual table with its columns in their declared order."""

    name: str
    columns: tuple[Column, ...]
    rows: int
    natural_name: str
    is_view: bool = False

    @cached_property
    def _by_name(self) -> dict[str, Column]:
        return {column.name.lower(): column for column in self.columns}

    def find(self, column: str) -> Column | None:
        """The column of that name in any case, or None."""
        return self._by_name.get(column.lower())

    @property
    def primary_key(self) -> tuple[Column, ...]:
        """The columns of the primary key (empty when none is declared)."""
        return tuple(column for column in self.columns if column.primary_key)


@dataclass(frozen=True)
class ForeignKey:
    """`table.column` refers to `ref_table.ref_column`.

    `origin` says who knows of it: the file itself (declared), a `tables.json` (described), or
    names and values that agree (proposed). Columns of one composite key share `constraint`
    (unique within a database).
    """

    table: str
    column: str
    ref_table: str
    ref_column: str
    origin: KeyOrigin
    constraint: int = -1


@dataclass(frozen=True, eq=False)  # compared by identity: a schema is a costly thing to hash
class Database:
    """The schema of one SQLite file. Look-ups ignore case, as SQLite does."""

    id: str
    path: Path
    tables: tuple[Table, ...]
    foreign_keys: tuple[ForeignKey, ...] = field(default=())

    @cached_property
    def _by_name(self) -> dict[str, Table]:
        return {table.name.lower(): table for table in self.tables}

    @cached_property
    def _foreign_columns(self) -> frozenset[tuple[str, str]]:
        return frozenset((key.table.lower(), key.column.lower()) for key in self.foreign_keys)

    def find(self, table: str) -> Table | None:
        """The table of that name in any case, or None."""
        return self._by_name.get(table.lower())

    def table(self, name: str) -> Table:
        """The table of that name in any case. Raises KeyError."""
        return self._by_name[name.lower()]

    def column(self, table: str, name: str) -> Column:
        """The column of that name in any case. Raises KeyError."""
        column = self.table(table).find(name)
        if column is None:
            raise KeyError(f"{table}.{name}")
        return column

    def is_foreign_key(self, table: str, column: str) -> bool:
        """Whether that column refers to another one."""
        return (table.lower(), column.lower()) in self._foreign_columns


def quote_identifier(name: str) -> str:
    """A table or column name in double quotes, fit for SQL whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def natural_name(identifier: str) -> str:
    """An identifier in words: `Home_Town` and `homeTown` both give `home town`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", identifier)
    words = re.sub(r"[_\W]+", " ", spaced).strip().lower()
    return words or identifier
