"""Which columns of views show what a sensitive column of a table holds, under whatever name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import apsw
import apsw.ext

from spftcore.catalogue.schema import Table, quote_identifier

_COMPOUND = re.compile(r"\b(union|intersect|except)\b", re.IGNORECASE)


def revealing(
    connection: apsw.Connection, tables: Sequence[Table], created: Mapping[str, str]
) -> frozenset[tuple[str, str]]:
    """(view, column) of every column that may show values of a sensitive column.

    SQLite itself says what a view reads, and which column a plain column of it comes from. A view
    that reads a sensitive column keeps only those that plainly come from another column; what it
    computes, and what a compound query gives, may hold anything.

    Args:
        tables: all of the database, with the columns of tables marked.
        created: the CREATE statements of the views.
    """
    marked = {
        (table.name.lower(), column.name.lower())
        for table in tables
        if not table.is_view
        for column in table.columns
        if column.sensitive
    }
    if not marked:
        return frozenset()
    compound = {name.lower() for name, sql in created.items() if _COMPOUND.search(sql)}
    return frozenset(
        (table.name, column)
        for table in tables
        if table.is_view
        for column in _revealing_columns(connection, table, marked, compound)
    )


def _revealing_columns(
    connection: apsw.Connection, view: Table, marked: set[tuple[str, str]], compound: set[str]
) -> list[str]:
    names = [column.name for column in view.columns]
    try:
        found = apsw.ext.query_info(
            connection, f"select * from {quote_identifier(view.name)}", actions=True
        )
    except (apsw.Error, UnicodeDecodeError):  # nobody knows what it shows
        return names
    reads = {
        (action.table_name.lower(), (action.column_name or "").lower())
        for action in found.actions or ()
        if action.action_name == "SQLITE_READ" and action.table_name
    }
    if not reads & marked:
        return []
    if compound & {view.name.lower(), *(table for table, _ in reads)}:
        return names
    plain = {
        name
        for name, _, _, table, column in found.description_full or ()
        if table and column and (table.lower(), column.lower()) not in marked
    }
    return [name for name in names if name not in plain]
