"""The catalogue: what a folder of SQLite files holds (tables, columns, keys, kinds, examples)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import apsw

from spftcore.database_files import database_files
from spftcore.errors import SpftError

Kind = Literal["number", "text", "date", "boolean", "other"]
KeyOrigin = Literal["declared", "described", "proposed"]

SAMPLE_ROWS = 10_000  # rows of a table looked at for kinds and examples: enough, and bounded
EXAMPLES = 3
LONGEST_EXAMPLE = 60  # characters; longer values say little in a prompt
_HEADER = b"SQLite format 3\x00"
_TABLES_JSON = ("tables.json", "dev_tables.json", "train_tables.json")


@dataclass(frozen=True)
class Column:
    """One column.

    `kind` is the declared type where the stored values agree with it, otherwise the kind the
    values have. `examples` holds up to three of the most frequent values of a bounded sample.
    `comment` is what the schema says about the column in words. A `sensitive` column stays out of
    prompts and synthesis.
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


class Catalogue(Mapping[str, Database]):
    """Databases by id, in the order of their ids."""

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._databases = {key: databases[key] for key in sorted(databases)}

    def __getitem__(self, database_id: str) -> Database:
        return self._databases[database_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._databases)

    def __len__(self) -> int:
        return len(self._databases)

    @classmethod
    def open(cls, directory: str | Path, tables_json: str | Path | None = None) -> Catalogue:
        """Read the schema of every database in a folder; the files are never written to.

        A database is `<id>.sqlite` (or `.db`) or `<id>/<id>.sqlite` (or `.db`). A Spider- or
        BIRD-style `tables.json` (the one given, else one in the folder or its parent) adds
        foreign keys and natural names.

        Raises:
            SpftError: the folder is missing or holds no database; two files have one id; a
                file is not SQLite, is corrupt, or has a write-ahead log or journal left over;
                `tables_json` is missing or malformed.
        """
        folder = Path(directory)
        files = database_files(folder)
        described = _read_tables_json(folder, Path(tables_json) if tables_json else None)
        return cls({key: read_database(key, path, described.get(key)) for key, path in files})


def connect(path: Path) -> apsw.Connection:
    """Open a database file read-only and immutable: SQLite then creates nothing beside it.

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
    uri = f"file:{quote(str(path.resolve()))}?immutable=1"
    try:
        return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    except apsw.Error as error:
        raise _unreadable(path, error) from error


def text_encoding(connection: apsw.Connection) -> str:
    """The codec of what `cast(text as blob)` gives: SQLite keeps text as UTF-8 or UTF-16."""
    return str(connection.pragma("encoding"))


def quote_identifier(name: str) -> str:
    """A table or column name in double quotes, fit for SQL whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def natural_name(identifier: str) -> str:
    """An identifier in words: `Home_Town` and `homeTown` both give `home town`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", identifier)
    words = re.sub(r"[_\W]+", " ", spaced).strip().lower()
    return words or identifier


def read_database(
    database_id: str, path: Path, described: Mapping[str, Any] | None = None
) -> Database:
    """Read one file's schema; `described` is its record of a `tables.json`, where there is one.

    Tables that SQLite cannot read (a broken view, a virtual table of an unknown module) are
    left out. Raises SpftError as `connect` does, or when the file is corrupt.
    """
    connection = connect(path)
    try:
        names = _natural_names(described)
        tables: list[Table] = []
        for name, type_ in _table_names(connection):
            try:
                tables.append(_read_table(connection, name, type_ == "view", names))
            except apsw.SQLError:
                continue
        database = Database(database_id, path, tuple(tables))
        keys = _declared_keys(connection, database)
        return Database(
            database_id, path, tuple(tables), tuple(_add_described(keys, database, described))
        )
    except apsw.Error as error:
        raise _unreadable(path, error) from error
    finally:
        connection.close()


def _unreadable(path: Path, error: Exception) -> SpftError:
    return SpftError(
        f"Database '{path.stem}' ({path}) cannot be read: {error}. "
        "Restore the file, or remove it from data.databases."
    )


def _read_tables_json(folder: Path, given: Path | None) -> dict[str, Mapping[str, Any]]:
    if given is None:
        places = [parent / name for parent in (folder, folder.parent) for name in _TABLES_JSON]
        given = next((place for place in places if place.is_file()), None)
        if given is None:
            return {}
    try:
        records = json.loads(given.read_text(encoding="utf-8"))
        return {record["db_id"]: record for record in records}
    except OSError as error:
        raise SpftError(
            f"The schema file {given} cannot be read ({error.strerror}). Check the path."
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise SpftError(
            f"The schema file {given} is not a tables.json as Spider and BIRD have it: a JSON "
            f"list of objects with db_id ({error!r}). Correct it or move it away."
        ) from error


def _rows(connection: apsw.Connection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


def _natural_names(described: Mapping[str, Any] | None) -> dict[tuple[str, str], str]:
    """Natural names by lower-case (table, column); the table's own name has column ''."""
    if not described:
        return {}
    tables = [str(name).lower() for name in described.get("table_names_original", [])]
    names = {
        (t, ""): str(n) for t, n in zip(tables, described.get("table_names", []), strict=False)
    }
    originals = described.get("column_names_original", [])
    for (index, original), (_, natural) in zip(
        originals, described.get("column_names", []), strict=False
    ):
        if 0 <= index < len(tables):
            names[tables[index], str(original).lower()] = str(natural)
    return names


def _table_names(connection: apsw.Connection) -> list[tuple[str, str]]:
    rows = _rows(connection, "pragma main.table_list")
    order = {
        name: number
        for number, (name,) in enumerate(_rows(connection, "select name from sqlite_schema"))
    }
    kept = [
        (name, type_)
        for schema, name, type_, *_ in rows
        if schema == "main" and type_ != "shadow" and not name.lower().startswith("sqlite_")
    ]
    return sorted(kept, key=lambda item: order.get(item[0], len(order)))


def _read_table(
    connection: apsw.Connection, name: str, is_view: bool, names: Mapping[tuple[str, str], str]
) -> Table:
    table = quote_identifier(name)
    # A view's rows may cost anything, so they are counted within the sample alone.
    source = f"(select 1 from {table} limit {SAMPLE_ROWS})" if is_view else table
    rows = _rows(connection, f"select count(*) from {source}")[0][0]
    columns = []
    for _, column, declared, not_null, _, key, hidden in _rows(
        connection, f"pragma table_xinfo({table})"
    ):
        if hidden == 1:
            continue
        values = _frequent_values(connection, table, column) if rows else []
        columns.append(
            Column(
                name=column,
                declared_type=declared or "",
                kind=infer_kind(declared or "", values),
                primary_key=key > 0,
                not_null=bool(not_null),
                examples=_examples(values),
                natural_name=names.get((name.lower(), column.lower()), natural_name(column)),
            )
        )
    return Table(
        name, tuple(columns), rows, names.get((name.lower(), ""), natural_name(name)), is_view
    )


def _frequent_values(connection: apsw.Connection, table: str, column: str) -> list[tuple[Any, int]]:
    """The most frequent non-NULL values of the sample with their counts, ties by value.

    Text comes out of SQLite as bytes, so that text which is malformed cannot raise; such text
    stays bytes, because no SQL text can name it.
    """
    name = quote_identifier(column)
    rows = _rows(
        connection,
        f"select case typeof(v) when 'text' then cast(v as blob) else v end, typeof(v), count(*) "
        f"from (select {name} as v from {table} limit {SAMPLE_ROWS}) where v is not null "
        f"group by v order by 3 desc, v limit 200",
    )
    values: list[tuple[Any, int]] = []
    encoding = text_encoding(connection)
    for value, type_, count in rows:
        if type_ == "text":
            with suppress(UnicodeDecodeError):
                value = value.decode(encoding)
        values.append((value, count))
    return values


def _examples(values: list[tuple[Any, int]]) -> tuple[str | int | float, ...]:
    fit = (
        value
        for value, _ in values
        if not isinstance(value, bytes) and 0 < len(str(value)) <= LONGEST_EXAMPLE
    )
    return tuple(value for _, value in zip(range(EXAMPLES), fit, strict=False))


_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?([ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})([ T]\d{1,2}:\d{2}(:\d{2})?)?"
    r"|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
    r"|(\d{1,2}[ -])?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
    r"[ -]\d{1,4}(,? \d{4})?",
    re.IGNORECASE,
)
_TRUTH = ({"t", "f"}, {"true", "false"}, {"y", "n"}, {"yes", "no"})


def infer_kind(declared: str, values: list[tuple[Any, int]]) -> Kind:
    """The kind of a column from its declared type and its most frequent values with counts.

    The values win over the declaration when nine of ten of them say otherwise: SQLite stores
    whatever it is given, and much real data calls numbers, dates and flags text or nothing.
    """
    said = _declared_kind(declared)
    total = sum(count for _, count in values)
    if not total:
        return said or "text"
    seen: Counter[Kind] = Counter()
    for value, count in values:
        seen[_value_kind(value)] += count
    words = {str(value).lower() for value, _ in values if value != ""}
    if words and any(words <= pair for pair in _TRUTH):
        return "boolean"
    if said == "boolean" and words <= {"0", "1"}:
        return "boolean"
    kind, count = max(seen.items(), key=lambda item: item[1])
    if said == "number" and seen["number"] == 0 and kind == "text":
        return "text"
    if kind == said or count >= 0.9 * total:
        return kind
    return said if said and seen[said] else kind


def _declared_kind(declared: str) -> Kind | None:
    name = declared.upper()
    if "BOOL" in name or name == "BIT":
        return "boolean"
    if any(word in name for word in ("DATE", "TIME")):
        return "date"
    if any(word in name for word in ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "YEAR", "MONEY")):
        return "number"
    if any(word in name for word in ("CHAR", "CLOB", "TEXT", "STRING")):
        return "text"
    if "BLOB" in name or "BINARY" in name:
        return "other"
    return None


def _value_kind(value: Any) -> Kind:
    if isinstance(value, bytes):
        return "other"
    if isinstance(value, str):
        return "date" if _DATE.fullmatch(value.strip()) else "text"
    return "number"


def _declared_keys(connection: apsw.Connection, database: Database) -> list[ForeignKey]:
    keys: list[ForeignKey] = []
    seen: set[tuple[str, tuple[tuple[str, str, str], ...]]] = set()
    constraint = 0
    for table in database.tables:
        rows = _rows(connection, f"pragma foreign_key_list({quote_identifier(table.name)})")
        by_id: dict[int, list[tuple[int, str, str, str | None]]] = {}
        for key_id, sequence, ref_table, source, target, *_ in rows:
            by_id.setdefault(key_id, []).append((sequence, ref_table, source, target))
        for key_id in sorted(by_id, reverse=True):  # SQLite lists the last declared first
            columns = _resolve_key(database, table, sorted(by_id[key_id], key=lambda row: row[0]))
            if (table.name, tuple(columns)) in seen:  # some Spider files declare a key twice
                continue
            seen.add((table.name, tuple(columns)))
            for source, ref_table, target in columns:
                key = ForeignKey(table.name, source, ref_table, target, "declared", constraint)
                keys.append(key)
            constraint += 1
    return keys


def _resolve_key(
    database: Database, table: Table, rows: list[tuple[int, str, str, str | None]]
) -> list[tuple[str, str, str]]:
    """(column, ref_table, ref_column) of one constraint in the schema's own case; [] if broken."""
    referred = database.find(rows[0][1])
    if referred is None:
        return []
    key = referred.primary_key
    resolved = []
    for position, (_, _, source, target) in enumerate(rows):
        column = table.find(source)
        if target is not None:
            ref_column = referred.find(target)
        else:  # `references other` without a column means the primary key of `other`
            ref_column = key[position] if position < len(key) else None
        if column is None or ref_column is None:
            return []
        resolved.append((column.name, referred.name, ref_column.name))
    return resolved


def _add_described(
    keys: list[ForeignKey], database: Database, described: Mapping[str, Any] | None
) -> list[ForeignKey]:
    """The declared keys and those that only the `tables.json` record names."""
    links = {_link(key) for key in keys}
    result = list(keys)
    if not described:
        return result
    tables = described.get("table_names_original", [])
    columns = described.get("column_names_original", [])
    constraint = max((key.constraint for key in keys), default=-1) + 1
    for source, target in described.get("foreign_keys", []):
        try:
            ends = [(tables[columns[end][0]], columns[end][1]) for end in (source, target)]
            (left, left_column), (right, right_column) = (
                (database.table(t).name, database.column(t, c).name) for t, c in ends
            )
        except (IndexError, KeyError, TypeError):
            continue  # the official file names tables and columns that some databases lack
        key = ForeignKey(left, left_column, right, right_column, "described", constraint)
        if (left, left_column) != (right, right_column) and _link(key) not in links:
            links.add(_link(key))
            result.append(key)
            constraint += 1
    return result


def _link(key: ForeignKey) -> frozenset[tuple[str, str]]:
    return frozenset(((key.table, key.column), (key.ref_table, key.ref_column)))
