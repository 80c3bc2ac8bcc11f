"""Copies of a database that hold the same rows in another order.

A copy has the tables' columns with their affinities and collations, and the views, but no key, no
constraint and no index, so that SQLite visits the rows in the order in which they were inserted:
also those of a table with INTEGER PRIMARY KEY, where order follows the key in the original.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import apsw

if TYPE_CHECKING:
    from spftcore.verify.executor import Executor

# What `Stability.probe` says, and the ORDER BY by which the rows are read; `n` counts them as they
# lie in the original. The two last are permutations by a multiplier prime to the modulus.
ORDERS = {
    "in reverse": "n DESC",
    "sorted by their columns": "{columns}",
    "sorted by their columns, falling": "{falling}",
    "scattered (2654435761)": "n * 2654435761 % 4294967296",
    "scattered (2246822519)": "n * 2246822519 % 4294967291",
}
_MOST_ROWS = 500_000


class Uncopied(Exception):
    """The database cannot be copied for a probe; the text says why."""


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _affinity(declared: str) -> str:
    """A type name with the affinity of `declared` (section 3.1 of SQLite's "Datatypes")."""
    upper = declared.upper()
    if "INT" in upper:
        return "INTEGER"
    if any(part in upper for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper:
        return "BLOB"
    if any(part in upper for part in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _columns(connection: apsw.Connection, table: str, strict: bool) -> list[tuple[str, str]]:
    """(quoted name, definition) of each column that `SELECT *` gives."""
    columns = []
    query = "SELECT name, type, hidden FROM pragma_table_xinfo(?, 'src')"
    for column in connection.execute(query, (table,)).fetchall():
        name, declared, hidden = str(column[0]), str(column[1]), column[2]
        if hidden == 1:
            continue
        collation = connection.column_metadata("src", table, name)[1]
        if collation.upper() not in ("BINARY", "NOCASE", "RTRIM"):
            raise Uncopied(f"the collation {collation} of {table}.{name} is not SQLite's own")
        affinity = "BLOB" if strict and declared.upper() == "ANY" else _affinity(declared)
        columns.append((_name(name), f"{_name(name)} {affinity} COLLATE {collation}"))
    return columns


def _tables(connection: apsw.Connection, words: frozenset[str]) -> list[tuple[str, bool]]:
    """(name, strict) of the ordinary tables named in `words` or in the text of a view."""
    views = connection.execute("SELECT sql FROM src.sqlite_master WHERE type = 'view'")
    texts = " ".join(str(sql) for (sql,) in views.fetchall()).lower()
    listed = connection.execute(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'src' AND type = 'table' "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    tables = [(str(name), bool(strict)) for name, strict in listed]
    return [(n, s) for n, s in tables if n.lower() in words or n.lower() in texts]


@contextlib.contextmanager
def reordered_copies(
    executor: Executor, database: str, words: frozenset[str]
) -> Iterator[list[Path]]:
    """Paths of one copy for each of `ORDERS`, removed on leaving.

    Args:
        executor: checks that a copy holds the original's rows.
        database: the original; it is read only.
        words: names in lower case; only tables among them are copied, and those views may read.

    Raises:
        Uncopied: too many rows, a collation that is not SQLite's, or values that do not survive.
    """
    with tempfile.TemporaryDirectory(prefix="spft-stability-") as folder:
        paths = [Path(folder) / f"{i}.sqlite" for i in range(len(ORDERS))]
        tables: list[str] = []
        for path, order in zip(paths, ORDERS.values(), strict=True):
            try:
                tables = _write(path, database, words, order, executor.limits.value_bytes)
            except (apsw.Error, OSError) as error:
                raise Uncopied(f"the database cannot be copied: {error}") from error
        checks = [f"SELECT * FROM {_name(table)}" for table in tables]
        jobs = [(file, sql) for sql in checks for file in (database, str(paths[0]))]
        outcomes = executor.execute(jobs)
        for table, one, other in zip(tables, outcomes[::2], outcomes[1::2], strict=True):
            if one.ran and other.ran and one.fingerprint != other.fingerprint:
                raise Uncopied(f"values of the table {table} change when they are inserted again")
        yield paths


def _write(
    path: Path, database: str, words: frozenset[str], order: str, value_bytes: int
) -> list[str]:
    """Writes one copy; returns the names of its tables."""
    # URIs are needed for `immutable`, which keeps SQLite from writing beside the original.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(str(path), flags=flags)
    try:
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, value_bytes)
        connection.execute("PRAGMA trusted_schema = OFF; PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        source = f"file:{quote(str(Path(database).resolve()))}?mode=ro&immutable=1"
        connection.execute("ATTACH ? AS src", (source,))
        tables = _tables(connection, words)
        with connection:
            for table, strict in tables:
                limit = f"SELECT 1 FROM src.{_name(table)} LIMIT 1 OFFSET {_MOST_ROWS}"
                if connection.execute(limit).fetchall():
                    raise Uncopied(f"its table {table} has more than {_MOST_ROWS:,} rows")
                columns = _columns(connection, table, strict)
                names = ", ".join(name for name, _ in columns)
                connection.execute(
                    f"CREATE TABLE main.{_name(table)} ({', '.join(d for _, d in columns)})"
                )
                by = order.format(
                    columns=", ".join(str(i + 1) for i in range(len(columns))),
                    falling=", ".join(f"{i + 1} DESC" for i in range(len(columns))),
                )
                connection.execute(
                    f"INSERT INTO main.{_name(table)} SELECT {names} FROM "
                    f"(SELECT {names}, row_number() OVER () AS n FROM src.{_name(table)}) "
                    f"ORDER BY {by}"
                )
            # Written as rows, not run as statements: a database's own text is never executed here.
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "INSERT INTO main.sqlite_master SELECT type, name, tbl_name, 0, sql "
                "FROM src.sqlite_master WHERE type = 'view'"
            )
        return [name for name, _ in tables]
    finally:
        connection.close()
