"""Opening a user's database file so that nothing is written to or beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from spftcore.errors import SpftError

_HEADER = b"SQLite format 3\x00"


def refuse_unusable(path: Path) -> None:
    """Look at a file without opening it as a database.

    Raises:
        SpftError: the file is missing, is not SQLite, or has a non-empty `-wal` or `-journal`
            beside it (immutable mode would silently ignore what that holds).
    """
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
    except OSError as error:
        raise SpftError(
            f"Database {path} cannot be read ({error.strerror}). "
            "Check the path and its permissions, or remove it from data.databases."
        ) from error
    if header != _HEADER:
        raise SpftError(
            f"Database '{path.stem}' ({path}) is not a SQLite file. "
            "Check the path, or remove it from data.databases."
        )
    for suffix in ("-wal", "-journal"):
        leftover = path.with_name(path.name + suffix)
        if leftover.exists() and leftover.stat().st_size > 0:
            raise SpftError(
                f"Database '{path.stem}' ({path}) has unsaved changes in {leftover.name}. "
                f"Close the program that writes it, or fold them in with: "
                f"sqlite3 '{path}' 'pragma wal_checkpoint(truncate); pragma journal_mode=delete'"
            )


def connect(path: Path) -> apsw.Connection:
    """Open a database file read-only and immutable: SQLite then creates nothing beside it.

    Raises:
        SpftError: as `refuse_unusable`, or SQLite cannot open the file.
    """
    refuse_unusable(path)
    uri = f"file:{quote(os.fsencode(path.resolve()))}?immutable=1"
    try:
        return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    except apsw.Error as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> SpftError:
    """What SQLite says of a file it cannot read, as a message with the remedy."""
    return SpftError(
        f"Database '{path.stem}' ({path}) cannot be read: {error}. "
        "Restore the file, or remove it from data.databases."
    )


def rows(
    connection: apsw.Connection, sql: str, bindings: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return connection.execute(sql, bindings).fetchall()


def text_encoding(connection: apsw.Connection) -> str:
    """The codec of what `cast(text as blob)` gives: SQLite keeps text as UTF-8 or UTF-16."""
    return str(connection.pragma("encoding"))


@contextmanager
def bounded(connection: apsw.Connection, steps: int) -> Iterator[None]:
    """Raises `apsw.InterruptError` from what costs more SQLite steps in all; steps, not seconds,
    so that every machine reads the same."""
    every = 10_000
    left = steps // every

    def spent() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    connection.set_progress_handler(spent, every)
    try:
        yield
    finally:
        connection.set_progress_handler(None)
