"""What must hold in every variant: tables, columns, keys, and the statements that create them.

The catalogue (`spftcore.databases`) tells what a schema means to a reader; this tells what a file
with that schema must obey, which is more (UNIQUE, NOT NULL, generated columns, keys by position)
and less (no examples, no natural names).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import apsw
import sqlglot
from sqlglot.tokens import TokenType

from spftcore.databases import connect, quote_identifier, text_encoding
from spftcore.errors import SpftError

Affinity = Literal["integer", "real", "numeric", "text", "blob"]

SAMPLE_ROWS = 2_000  # rows of a table that variants take their values from


@dataclass(frozen=True)
class ColumnRule:
    """One stored or generated column. `declared` is the type as written, possibly empty."""

    name: str
    declared: str
    affinity: Affinity
    not_null: bool
    generated: bool


@dataclass(frozen=True)
class Reference:
    """Columns (by position) that hold a key of `parent` (lower-case name) or NULL."""

    columns: tuple[int, ...]
    parent: str
    parent_columns: tuple[int, ...]


@dataclass(frozen=True)
class TableRule:
    """One table, view or virtual table.

    `keys` are the sets of columns without duplicates, the primary key among them;
    `integer_key` is the column that is the rowid; `constants` the literals of the CREATE
    statement, which is where a CHECK says what it accepts.
    """

    name: str
    kind: Literal["table", "view", "virtual"]
    columns: tuple[ColumnRule, ...]
    primary_key: tuple[int, ...] = ()
    keys: tuple[tuple[int, ...], ...] = ()
    integer_key: int | None = None
    references: tuple[Reference, ...] = ()
    constants: tuple[str | int | float, ...] = ()

    def position(self, column: str) -> int | None:
        """The column's place, its name in any case; None when there is none of that name."""
        wanted = column.lower()
        for place, rule in enumerate(self.columns):
            if rule.name.lower() == wanted:
                return place
        return None

    @property
    def stored(self) -> tuple[int, ...]:
        """The columns that an INSERT names."""
        return tuple(i for i, rule in enumerate(self.columns) if not rule.generated)


@dataclass(frozen=True)
class Schema:
    """Tables by lower-case name in the order of the file, and its statements (type, name, SQL)."""

    tables: dict[str, TableRule]
    statements: tuple[tuple[str, str, str], ...]
    encoding: str
    notes: tuple[str, ...] = ()
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def base_tables(self) -> Iterator[tuple[str, TableRule]]:
        """The tables that rows are written into one by one."""
        return ((key, rule) for key, rule in self.tables.items() if rule.kind == "table")


def read_schema(path: Path) -> Schema:
    """The rules of a file's schema with a sample of each table's rows; nothing is written.

    Raises:
        SpftError: the file is missing, not SQLite, corrupt, or has a log beside it.
    """
    connection = connect(path)
    try:
        return _read(connection)
    except apsw.Error as error:
        raise SpftError(
            f"Database '{path.stem}' ({path}) cannot be read: {error}. Restore the file."
        ) from error
    finally:
        connection.close()


def affinity_of(declared: str) -> Affinity:
    """The affinity that SQLite gives a declared type (sqlite.org/datatype3.html, 3.1)."""
    name = declared.upper()
    if "INT" in name:
        return "integer"
    if any(word in name for word in ("CHAR", "CLOB", "TEXT")):
        return "text"
    if "BLOB" in name or not name:
        return "blob"
    if any(word in name for word in ("REAL", "FLOA", "DOUB")):
        return "real"
    return "numeric"


def _read(connection: apsw.Connection) -> Schema:
    notes: list[str] = []
    encoding = str(connection.pragma("encoding"))
    statements = tuple(
        (str(type_), str(name), str(sql))
        for type_, name, sql in connection.execute(
            "select type, name, sql from sqlite_schema where sql is not null order by rowid"
        )
    )
    written = {name.lower(): sql for type_, name, sql in statements if type_ in ("table", "view")}
    kinds: dict[str, tuple[str, str, bool]] = {}
    for schema, name, type_, _, without_rowid, _ in connection.execute("pragma table_list"):
        if schema == "main" and not name.lower().startswith("sqlite_"):
            kinds[name.lower()] = (name, type_, bool(without_rowid))
    tables: dict[str, TableRule] = {}
    for key in written:
        if key not in kinds or kinds[key][1] == "shadow":
            continue
        name, type_, without_rowid = kinds[key]
        try:
            tables[key] = _table(connection, name, type_, without_rowid, written[key])
        except apsw.SQLError as error:  # a broken view, a virtual table of an unknown module
            notes.append(f"{name}: {error}")
    for key, rule in list(tables.items()):
        if rule.kind == "table":
            tables[key] = _with_references(connection, rule, tables)
    kept = tuple(
        s
        for s in statements
        if s[0] != "table" or (s[1].lower() in tables and not s[1].lower().startswith("sqlite_"))
    )
    rows = {key: _sample(connection, rule) for key, rule in tables.items() if rule.kind != "view"}
    return Schema(tables, kept, encoding, tuple(notes), rows)


def _table(
    connection: apsw.Connection, name: str, type_: str, without_rowid: bool, sql: str
) -> TableRule:
    quoted = quote_identifier(name)
    columns: list[ColumnRule] = []
    key: list[tuple[int, int]] = []
    described: list[tuple[Any, ...]] = connection.execute(
        f"pragma table_xinfo({quoted})"
    ).fetchall()
    for _, column, declared, not_null, _, in_key, hidden in described:
        if hidden == 1:
            continue
        declared = declared or ""
        if in_key:
            key.append((in_key, len(columns)))
        columns.append(
            ColumnRule(column, declared, affinity_of(declared), bool(not_null), hidden > 1)
        )
    if type_ == "view":
        return TableRule(name, "view", tuple(columns))
    if type_ == "virtual":
        return TableRule(name, "virtual", tuple(columns))
    primary = tuple(position for _, position in sorted(key))
    keys = {primary} if primary else set()
    indexes: list[tuple[Any, ...]] = connection.execute(f"pragma index_list({quoted})").fetchall()
    for _, index, unique, _, partial in indexes:
        if unique and not partial:
            listed: list[tuple[Any, ...]] = connection.execute(
                f"pragma index_info({quote_identifier(index)})"
            ).fetchall()
            positions = tuple(cid for _, cid, _ in listed)
            if all(position >= 0 for position in positions):  # no expression, no rowid
                keys.add(positions)
    integer_key = None
    if len(primary) == 1 and not without_rowid:
        place = primary[0]
        integer_key = place if columns[place].declared.upper() == "INTEGER" else None
    return TableRule(
        name,
        "table",
        tuple(columns),
        primary,
        tuple(sorted(keys)),
        integer_key,
        constants=_constants(sql),
    )


def _with_references(
    connection: apsw.Connection, rule: TableRule, tables: dict[str, TableRule]
) -> TableRule:
    rows: dict[int, list[tuple[int, str, str, str | None]]] = {}
    for number, place, parent, source, target, *_ in connection.execute(
        f"pragma foreign_key_list({quote_identifier(rule.name)})"
    ):
        rows.setdefault(number, []).append((place, parent, source, target))
    references: list[Reference] = []
    for number in sorted(rows, reverse=True):  # SQLite lists the last declared first
        parts = sorted(rows[number], key=lambda row: row[0])
        parent_rule = tables.get(parts[0][1].lower())
        if parent_rule is None:
            continue
        sources = [rule.position(source) for _, _, source, _ in parts]
        key = parent_rule.primary_key
        targets = [
            parent_rule.position(target)
            if target is not None
            else (key[i] if i < len(key) else None)
            for i, (_, _, _, target) in enumerate(parts)
        ]
        if None in sources or None in targets:
            continue
        reference = Reference(
            tuple(i for i in sources if i is not None),
            parts[0][1].lower(),
            tuple(i for i in targets if i is not None),
        )
        if reference not in references:
            references.append(reference)
    return TableRule(
        rule.name,
        rule.kind,
        rule.columns,
        rule.primary_key,
        rule.keys,
        rule.integer_key,
        tuple(references),
        rule.constants,
    )


def _constants(sql: str) -> tuple[str | int | float, ...]:
    """Numbers and strings of a CREATE TABLE, where it has a CHECK (else they mean lengths)."""
    if "CHECK" not in sql.upper():
        return ()
    found: dict[str | int | float, None] = {}
    try:
        tokens = sqlglot.tokenize(sql, read="sqlite")
    except sqlglot.errors.SqlglotError:
        return ()
    for token in tokens:
        if token.token_type == TokenType.STRING:
            found[token.text] = None
        elif token.token_type == TokenType.NUMBER:
            number = float(token.text)
            found[int(number) if number.is_integer() else number] = None
    return tuple(found)


def _sample(connection: apsw.Connection, rule: TableRule) -> list[tuple[Any, ...]]:
    """Rows of a table, all columns in order (generated ones too)."""
    names = [quote_identifier(column.name) for column in rule.columns]
    source = f"from {quote_identifier(rule.name)} limit {SAMPLE_ROWS}"
    try:
        return list(connection.execute(f"select {', '.join(names)} {source}"))
    except UnicodeDecodeError:  # text that is not text: as NULL, since no variant can hold it
        cells = [
            f"case when typeof({n}) = 'text' then cast({n} as blob) else {n} end, typeof({n})"
            for n in names
        ]
        encoding = text_encoding(connection)
        return [
            tuple(_decoded(row[2 * i], row[2 * i + 1], encoding) for i in range(len(names)))
            for row in connection.execute(f"select {', '.join(cells)} {source}")
        ]
    except apsw.SQLError:  # a virtual table that cannot be scanned
        return []


def _decoded(value: Any, type_: str, encoding: str) -> Any:
    if type_ != "text":
        return value
    try:
        return value.decode(encoding)
    except UnicodeDecodeError:
        return None
