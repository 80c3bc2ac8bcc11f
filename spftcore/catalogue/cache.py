"""Catalogues read before, one JSON file a database, outside the folder of the databases.

An entry answers for a file whose content it has seen: size, times and inode are the fast way to
know, the SHA-256 of the bytes the sure one. A write within the tick of the clock can leave times
as they are, so they are trusted only where they are older than the look at them by `SETTLED`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import apsw

from spftcore.catalogue.schema import Column, Database, ForeignKey, Table

SETTLED = 2.0  # seconds; the coarsest times of a file system


@dataclass(frozen=True)
class FileState:
    """Size, times (ns) and identity of a file; `settled` when no later write can leave them."""

    values: list[int]
    settled: bool

    def to_json(self) -> dict[str, Any]:
        return {"state": self.values, "settled": self.settled}


def file_state(path: Path) -> FileState:
    """The state of a file now. Raises OSError."""
    found = path.stat()
    last = max(found.st_mtime_ns, found.st_ctime_ns)
    values = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
    return FileState(values, time.time() - last / 1e9 > SETTLED)


class CatalogueCache:
    """Entries in one folder. What cannot be read or written is as good as not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, database_id: str, path: Path, context: str) -> Database | None:
        """What is known of a file, or None.

        Args:
            context: digest of whatever else decides what is read (`context_digest`).
        """
        entry = self._entry(path)
        try:
            header_line, body = entry.read_text(encoding="utf-8").split("\n", 1)
            header = json.loads(header_line)
            if header["context"] != context or header["checksum"] != _digest(body.encode()):
                return None
            state = file_state(path)
            if header["state"] != state.values or not header["settled"]:
                if header["sha256"] != file_digest(path):
                    return None
                self._write(entry, {**header, **state.to_json()}, body)
            return _from_json(database_id, path, json.loads(body))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def store(self, database: Database, context: str, state: FileState) -> None:
        """Keep what was read of a file.

        Args:
            state: of the file before it was read: had it changed since, the entry would answer
                for content that nobody read.
        """
        body = json.dumps(_to_json(database))
        with suppress(OSError):
            digest = file_digest(database.path)
            if file_state(database.path).values != state.values:
                return
            header = {"context": context, "checksum": _digest(body.encode()), "sha256": digest}
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(self._entry(database.path), {**header, **state.to_json()}, body)

    def _entry(self, path: Path) -> Path:
        place = _digest(os.fsencode(path.resolve()))[:16]
        return self.folder / f"{place}.json"

    def _write(self, entry: Path, header: Mapping[str, Any], body: str) -> None:
        partial = entry.with_suffix(f".{os.getpid()}.partial")
        with suppress(OSError):
            partial.write_text(json.dumps(header) + "\n" + body, encoding="utf-8")
            partial.replace(entry)


def context_digest(*parts: object) -> str:
    """A digest of what, besides the file, decides the catalogue; the reading code is part of it."""
    return _digest(json.dumps([_version(), *parts], default=str, sort_keys=True).encode())


@lru_cache(maxsize=1)
def _version() -> str:
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return f"{_digest(b''.join(code))}-{apsw.sqlite_lib_version()}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_json(database: Database) -> dict[str, Any]:
    return {
        "tables": [asdict(table) for table in database.tables],
        "foreign_keys": [asdict(key) for key in database.foreign_keys],
    }


def _from_json(database_id: str, path: Path, stored: Mapping[str, Any]) -> Database:
    tables = []
    for table in stored["tables"]:
        columns = tuple(
            Column(**{**column, "examples": tuple(column["examples"])})
            for column in table["columns"]
        )
        tables.append(Table(**{**table, "columns": columns}))
    keys = tuple(ForeignKey(**key) for key in stored["foreign_keys"])
    return Database(database_id, path, tuple(tables), keys)
