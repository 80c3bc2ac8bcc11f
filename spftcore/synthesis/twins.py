"""Queries that give the same rows whatever the data: told apart on thinned copies of a database.

Two queries with one result on a database may agree by chance: many counts are 3. On copies that
hold only part of each table's rows, chance agreements part; what still agrees there asks the same.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import apsw

from spftcore.databases import Database, connect, quote_identifier

COPIES = 3
KEPT_ROWS = 3_000  # of each table, before thinning
_SHARE = (6, 5, 7)  # tenths of the rows that each copy keeps
_MULTIPLIERS = (2654435761, 2246822519, 3266489917)  # odd, so they scatter the row numbers


class ThinnedCopies:
    """Thinned copies of databases in a temporary folder, made when first asked for."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="spft-twins-")
        self._paths: dict[str, list[Path]] = {}

    def paths(self, database: Database) -> list[Path]:
        """The copies of a database; none when it cannot be copied."""
        if database.id not in self._paths:
            folder = Path(self._folder.name)
            paths = [folder / f"{len(self._paths)}-{n}.sqlite" for n in range(COPIES)]
            try:
                for number, path in enumerate(paths):
                    _write_copy(database, path, number)
            except (apsw.Error, OSError):
                paths = []
            self._paths[database.id] = paths
        return self._paths[database.id]

    def close(self) -> None:
        """Remove the copies."""
        self._folder.cleanup()

    def __enter__(self) -> ThinnedCopies:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _write_copy(database: Database, path: Path, number: int) -> None:
    """One copy: the tables' columns with their types, some of their rows, no keys, no views."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(str(path), flags=flags)
    try:
        connection.execute("pragma trusted_schema = off; pragma journal_mode = off")
        connection.execute("pragma synchronous = off")
        source = f"file:{quote(os.fsencode(database.path.resolve()))}?mode=ro&immutable=1"
        # SQLite attaches only files of one encoding, and a new file may still choose its own.
        with closing(connect(database.path)) as original:
            encoding = original.pragma("encoding")
        connection.execute(f"pragma encoding = '{encoding}'")
        connection.execute("attach ? as src", (source,))
        with connection:
            for position, table in enumerate(database.tables):
                if table.is_view:
                    continue  # its rows may cost anything; queries on it are not compared
                name = quote_identifier(table.name)
                columns = [quote_identifier(column.name) for column in table.columns]
                types = [_affinity(column.declared_type) for column in table.columns]
                described = ", ".join(f"{c} {t}" for c, t in zip(columns, types, strict=True))
                connection.execute(f"create table main.{name} ({described})")
                # The table's place moves the numbers: tables of one size keep different shares.
                scattered = f"(n + {7919 * position}) * {_MULTIPLIERS[number]} % 4294967296 / 97"
                # Named columns hide `n`, so the table's own go by numbers in between.
                numbered = ", ".join(f"{column} as c{k}" for k, column in enumerate(columns))
                between = ", ".join(f"c{k}" for k in range(len(columns)))
                connection.execute(
                    f"insert into main.{name} select {between} from (select *, row_number() "
                    f"over () as n from (select {numbered} from src.{name} limit {KEPT_ROWS})) "
                    f"where {scattered} % 10 < {_SHARE[number]}"
                )
    finally:
        connection.close()


def _affinity(declared: str) -> str:
    """The declared type, as far as it decides how values compare (sqlite.org/datatype3, 3.1)."""
    upper = declared.upper()
    if "INT" in upper:
        return "integer"
    if any(part in upper for part in ("CHAR", "CLOB", "TEXT")):
        return "text"
    if not upper or "BLOB" in upper:
        return "blob"
    return "real" if any(part in upper for part in ("REAL", "FLOA", "DOUB")) else "numeric"
