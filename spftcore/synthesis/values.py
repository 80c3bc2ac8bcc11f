"""Values of a database for literals: a bounded sample of each table's rows, read once."""

from __future__ import annotations

import random
from contextlib import suppress

import apsw

from spftcore.databases import Database, Table, connect, quote_identifier, text_encoding

Value = str | int | float | None

SAMPLE_ROWS = 2_000
LONGEST_TEXT = 60  # characters of a text that may become a literal


class DatabaseValues:
    """Sampled rows and sorted column values of one database, read when first asked for."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._rows: dict[str, list[tuple[Value, ...]]] = {}
        self._sorted: dict[tuple[str, str], list[str | int | float]] = {}

    def rows(self, table: str) -> list[tuple[Value, ...]]:
        """Rows of a table, evenly spread over it; blobs and text that is not UTF-8 are None."""
        if table not in self._rows:
            self._rows[table] = _read_rows(self.database, self.database.table(table))
        return self._rows[table]

    def position(self, table: str, column: str) -> int:
        """Where a column stands in `rows`."""
        return [c.name for c in self.database.table(table).columns].index(column)

    def distinct(self, table: str, column: str) -> list[str | int | float]:
        """Distinct values fit for a literal, numbers before texts, each in their order."""
        key = (table, column)
        if key not in self._sorted:
            position = self.position(table, column)
            values = {row[position] for row in self.rows(table)}
            fit = [value for value in values if value is not None and is_fit(value)]
            self._sorted[key] = sorted(fit, key=lambda v: (isinstance(v, str), v))
        return self._sorted[key]

    def draw(self, table: str, column: str, rng: random.Random) -> str | int | float | None:
        """A value of the column as often as it occurs; None when the column has none fit."""
        rows, position = self.rows(table), self.position(table, column)
        for _ in range(4):
            value = rng.choice(rows)[position] if rows else None
            if value is not None and is_fit(value):
                return value
        values = self.distinct(table, column)
        return rng.choice(values) if values else None


def is_fit(value: str | int | float) -> bool:
    """Whether a value makes a sensible literal."""
    if isinstance(value, str):
        return 0 < len(value) <= LONGEST_TEXT and value.isprintable() and value.strip() != ""
    return abs(value) < 1e15


def literal(value: str | int | float) -> str:
    """A value as SQL text; whole numbers without a decimal point."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return repr(value)


def _read_rows(database: Database, table: Table) -> list[tuple[Value, ...]]:
    # Text leaves SQLite as bytes so that text which is not UTF-8 cannot raise; texts too long for
    # a literal are not fetched, since they may be of any size. One result for each column: SQLite
    # allows as many of these as a table may have columns.
    columns = ", ".join(
        f"case when octet_length({name}) > {4 * LONGEST_TEXT} then null "
        f"when typeof({name}) = 'text' then cast({name} as blob) "
        f"when typeof({name}) = 'blob' then null else {name} end"
        for name in (quote_identifier(column.name) for column in table.columns)
    )
    source = quote_identifier(table.name)
    spread = f"where rowid % {table.rows // SAMPLE_ROWS + 1} = 0 " if table.rows else ""
    connection = connect(database.path)
    try:
        encoding = text_encoding(connection)
        # Views and tables without rowid know no `rowid`; sparse rowids may give too little.
        raw = _read_until_error(
            connection, f"select {columns} from {source} {spread}limit {SAMPLE_ROWS}"
        )
        if len(raw) < min(table.rows, SAMPLE_ROWS // 2):
            raw = _read_until_error(
                connection, f"select {columns} from {source} limit {SAMPLE_ROWS}"
            )
    except apsw.Error:  # not even its encoding can be read
        return []
    finally:
        connection.close()
    return [tuple(_decoded(value, encoding) for value in row) for row in raw]


def _read_until_error(connection: apsw.Connection, sql: str) -> list[tuple]:
    """The rows before the first that cannot be read, of a damaged file for example."""
    rows: list[tuple] = []
    with suppress(apsw.Error):
        rows.extend(connection.execute(sql))
    return rows


def _decoded(value: Value | bytes, encoding: str) -> Value:
    if isinstance(value, bytes):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            return None
    return value
