"""The catalogue: what a folder of SQLite files holds (tables, columns, keys, kinds, examples)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from spftcore.catalogue.cache import CatalogueCache, context_digest, file_state
from spftcore.catalogue.descriptions import describe, description_files, read_tables_json
from spftcore.catalogue.files import connect, refuse_unusable, text_encoding, unreadable
from spftcore.catalogue.kinds import infer_kind
from spftcore.catalogue.reading import read_database
from spftcore.catalogue.schema import (
    Column,
    Database,
    ForeignKey,
    KeyOrigin,
    Kind,
    Table,
    natural_name,
    quote_identifier,
)
from spftcore.catalogue.sensitive import Sensitivity
from spftcore.config import DataConfig
from spftcore.database_files import database_files
from spftcore.errors import SpftError

__all__ = [
    "Catalogue",
    "Column",
    "Database",
    "ForeignKey",
    "KeyOrigin",
    "Kind",
    "Sensitivity",
    "Table",
    "connect",
    "infer_kind",
    "natural_name",
    "quote_identifier",
    "text_encoding",
]


class Catalogue(Mapping[str, Database]):
    """Databases by id, in the order of their ids.

    `unreadable` holds, by id, the message of every file that could not be read.
    """

    def __init__(
        self, databases: Mapping[str, Database], unreadable: Mapping[str, str] | None = None
    ) -> None:
        self._databases = {key: databases[key] for key in sorted(databases)}
        self.unreadable: Mapping[str, str] = dict(unreadable or {})

    def __getitem__(self, database_id: str) -> Database:
        return self._databases[database_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._databases)

    def __len__(self) -> int:
        return len(self._databases)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        tables_json: str | Path | None = None,
        *,
        sensitivity: Sensitivity | None = None,
        propose_keys: bool = True,
        cache: str | Path | None = None,
    ) -> Catalogue:
        """Read the schema of every database in a folder; the files are never written to.

        A database is `<id>.sqlite` (or `.db`) or `<id>/<id>.sqlite` (or `.db`). A Spider- or
        BIRD-style `tables.json` (the one given, else one in the folder or its parent) adds
        foreign keys and natural names, and BIRD's `<id>/database_description/*.csv` comments.

        A file that is not SQLite, is corrupt, or has a write-ahead log or journal left over is
        passed over and named in `unreadable`.

        Args:
            sensitivity: what is done about columns that look personal or secret.
            propose_keys: look for foreign keys where tables are unconnected without.
            cache: folder for what was read, so that a file that did not change is not read again.

        Raises:
            SpftError: the folder is missing or holds no database; two files have one id; no file
                can be read; `tables_json` is missing or malformed.
        """
        folder = Path(directory)
        files = database_files(folder)
        records = read_tables_json(folder, Path(tables_json) if tables_json else None)
        rules = sensitivity or Sensitivity()
        return cls._read(dict(files), records, rules, propose_keys, cache)

    @classmethod
    def of_files(
        cls,
        files: Mapping[str, Path],
        settings: DataConfig,
        cache: str | Path | None = None,
    ) -> Catalogue:
        """`open` for files that lie anywhere, by their ids, whatever their names end with.

        Raises:
            SpftError: no file can be read, or a `tables.json` is malformed.
        """
        rules = Sensitivity(settings.sensitive, settings.sensitive_columns)
        records: dict[str, Any] = {}
        for folder in sorted({_home(path) for path in files.values()}):
            records |= read_tables_json(folder, settings.tables_json)
        return cls._read(files, records, rules, settings.propose_keys, cache)

    @classmethod
    def _read(
        cls,
        files: Mapping[str, Path],
        records: Mapping[str, Mapping[str, Any]],
        rules: Sensitivity,
        propose_keys: bool,
        cache: str | Path | None,
    ) -> Catalogue:
        kept = CatalogueCache(Path(cache)) if cache else None
        databases: dict[str, Database] = {}
        failed: dict[str, str] = {}
        for key, path in files.items():
            try:
                databases[key] = _open_one(key, path, records.get(key), rules, propose_keys, kept)
            except SpftError as error:
                failed[os.fsencode(key).decode("utf-8", "backslashreplace")] = str(error)
        if not databases:
            first = next(iter(failed.values()))
            others = f" ({len(failed) - 1} more cannot be read.)" if len(failed) > 1 else ""
            raise SpftError(first + others)
        return cls(databases, failed)

    @classmethod
    def from_settings(
        cls, settings: DataConfig, folder: Path, cache: Path | None = None
    ) -> Catalogue:
        """`open` as the settings say. Raises SpftError as `open` does."""
        return cls.open(
            folder,
            settings.tables_json,
            sensitivity=Sensitivity(settings.sensitive, settings.sensitive_columns),
            propose_keys=settings.propose_keys,
            cache=cache,
        )


def _is_text(name: str) -> bool:
    """Whether a name can be written: of bytes that are no UTF-8 Python makes lone surrogates."""
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def _home(path: Path) -> Path:
    """The folder of databases that a file lies in: <folder>/<id>.sqlite, or …/<id>/<id>.sqlite."""
    return path.parent.parent if path.parent.name == path.stem else path.parent


def _open_one(
    database_id: str,
    path: Path,
    record: Mapping[str, Any] | None,
    sensitivity: Sensitivity,
    propose: bool,
    cache: CatalogueCache | None,
) -> Database:
    if not _is_text(database_id):
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise SpftError(f"The name of database {shown} is not UTF-8. Rename the file.")
    refuse_unusable(path)
    try:
        state = file_state(path)
        described = {file.stem: file.read_bytes() for file in description_files(path)}
    except OSError as error:
        raise unreadable(path, error) from error
    context = ""
    if cache is not None:
        texts = {table: content.hex() for table, content in described.items()}
        context = context_digest(record, texts, astuple(sensitivity), propose)
        known = cache.load(database_id, path, context)
        if known is not None:
            return known
    description = describe(record, described)
    database = read_database(database_id, path, description, sensitivity, propose=propose)
    if cache is not None:
        cache.store(database, context, state)
    return database
