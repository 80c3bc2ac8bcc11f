"""Reading one database file: its tables, columns, row counts and a bounded sample of values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import apsw

from spftcore.catalogue.comments import create_comments
from spftcore.catalogue.descriptions import Description
from spftcore.catalogue.files import bounded, connect, rows, text_encoding, unreadable
from spftcore.catalogue.keys import declared_keys, described_keys
from spftcore.catalogue.kinds import Counted, infer_kind, sorts_as_text
from spftcore.catalogue.proposals import propose_keys
from spftcore.catalogue.schema import Column, Database, Table, natural_name, quote_identifier
from spftcore.catalogue.sensitive import Sensitivity
from spftcore.catalogue.views import revealing

SAMPLE_ROWS = 10_000  # rows of a table looked at for kinds and examples: enough, and bounded
SAMPLE_CELLS = 500_000  # of a table; one with more than 50 columns is looked at in fewer rows
SAMPLE_VALUES = 200  # distinct values of a column that are looked at
SAMPLE_BYTES = 1_000  # of a text; longer ones are known to be texts and never fetched
EXAMPLES = 3
LONGEST_EXAMPLE = 60  # characters; longer values say little in a prompt
VIEW_STEPS = 20_000_000  # SQLite steps a view may cost, about half a second


def read_database(
    database_id: str,
    path: Path,
    description: Description,
    sensitivity: Sensitivity,
    *,
    propose: bool = True,
) -> Database:
    """Read one file's schema.

    Tables that SQLite cannot read (a broken view, one that costs too much, a virtual table of an
    unknown module, a name that is no text) are left out.

    Args:
        propose: look for foreign keys that nobody declares.

    Raises:
        SpftError: as `connect` does, or the file is corrupt.
    """
    connection = connect(path)
    try:
        tables: list[Table] = []
        views: dict[str, str] = {}
        for name, type_, sql in _table_names(connection, text_encoding(connection)):
            comments = create_comments(sql) if type_ == "table" else {}
            is_view = type_ == "view"
            if is_view:
                views[name] = sql
            # Damage inside a virtual table is its module's; anywhere else it is the file's.
            tolerated: tuple[type[Exception], ...] = (apsw.SQLError, apsw.InterruptError)
            if type_ == "virtual":
                tolerated += (apsw.Error,)
            with (
                suppress(*tolerated),
                bounded(connection, VIEW_STEPS) if is_view else nullcontext(),
            ):
                tables.append(
                    _read_table(connection, name, is_view, description, comments, sensitivity)
                )
        veiled = sensitivity.unless_exempt(revealing(connection, tables, views))
        bare = Database(database_id, path, tuple(_veil(table, veiled) for table in tables))
        keys = described_keys(declared_keys(connection, bare), bare, description)
        if propose:
            keys += propose_keys(connection, bare, keys)
        hidden = sensitivity.hidden(bare)
        return Database(
            database_id,
            path,
            tuple(_without(table, hidden) for table in bare.tables),
            tuple(
                key
                for key in keys
                if not {(key.table, key.column), (key.ref_table, key.ref_column)} & hidden
            ),
        )
    except (apsw.Error, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    finally:
        connection.close()


def _veil(table: Table, sensitive: frozenset[tuple[str, str]]) -> Table:
    columns = tuple(
        replace(column, sensitive=True, examples=(), comment="")
        if (table.name, column.name) in sensitive
        else column
        for column in table.columns
    )
    return replace(table, columns=columns)


def _without(table: Table, hidden: frozenset[tuple[str, str]]) -> Table:
    kept = tuple(column for column in table.columns if (table.name, column.name) not in hidden)
    return Table(table.name, kept, table.rows, table.natural_name, table.is_view)


def _table_names(connection: apsw.Connection, encoding: str) -> list[tuple[str, str, str]]:
    """(name, type, CREATE statement) in the order of the schema.

    Names leave SQLite as bytes, because one that is no text would raise in the midst of a list.
    """
    created: dict[bytes, tuple[int, bytes]] = {}
    query = "select cast(name as blob), cast(sql as blob) from sqlite_schema"
    for number, (stored, sql) in enumerate(rows(connection, query)):
        created.setdefault(stored, (number, sql or b""))
    found = []
    query = "select cast(name as blob), type from pragma_table_list where schema = 'main'"
    for stored, type_ in rows(connection, query):
        number, sql = created.get(stored, (len(created), b""))
        with suppress(UnicodeDecodeError):
            name = stored.decode(encoding)
            if type_ != "shadow" and not name.lower().startswith("sqlite_"):
                found.append((number, name, type_, sql.decode(encoding, "replace")))
    return [item[1:] for item in sorted(found)]


def _read_table(
    connection: apsw.Connection,
    name: str,
    is_view: bool,
    description: Description,
    comments: Mapping[str, str],
    sensitivity: Sensitivity,
) -> Table:
    table = quote_identifier(name)
    # A view's rows may cost anything, so they are counted within the sample alone.
    source = f"(select 1 from {table} limit {SAMPLE_ROWS})" if is_view else table
    ((count,),) = rows(connection, f"select count(*) from {source}")
    encoding = text_encoding(connection)
    columns = []
    as_bytes = "cast(name as blob), cast(type as blob)"
    stated = rows(
        connection,
        f'select {as_bytes}, "notnull", pk, hidden from pragma_table_xinfo(?)',
        (name,),
    )
    limit = min(SAMPLE_ROWS, SAMPLE_CELLS // max(1, len(stated)))
    for stored, declared, not_null, key, hidden in stated:
        try:
            column = stored.decode(encoding)
        except UnicodeDecodeError:
            continue
        if hidden == 1:
            continue
        declared_type = (declared or b"").decode(encoding, "replace")
        values = _frequent_values(connection, table, column, encoding, limit) if count else []
        kind = infer_kind(declared_type, values, column)
        natural = description.name(name, column) or natural_name(column)
        sensitive = sensitivity.covers(name, column, natural, kind, key > 0, values)
        comment = description.comment(name, column) or comments.get(column.lower(), "")
        columns.append(
            Column(
                name=column,
                declared_type=declared_type,
                kind=kind,
                primary_key=key > 0,
                not_null=bool(not_null),
                examples=() if sensitive else _examples(values),
                natural_name=natural,
                comment="" if sensitive else comment,  # it often tells a value
                sensitive=sensitive,
                sorts_as_text=sorts_as_text(kind, values),
                has_null=bool(
                    count and not not_null and _null_in(connection, table, column, limit)
                ),
            )
        )
    return Table(
        name, tuple(columns), count, description.name(name, "") or natural_name(name), is_view
    )


def _frequent_values(
    connection: apsw.Connection, table: str, column: str, encoding: str, limit: int
) -> list[Counted]:
    """The most frequent non-NULL values of the sample with their counts, ties by value.

    Text comes out of SQLite as bytes, so that text which is malformed cannot raise; such text
    stays bytes, because no SQL text can name it. Long texts and blobs are counted but not read:
    `typeof` and `octet_length` look at a row's header alone.
    """
    name = quote_identifier(column)
    counted = rows(
        connection,
        f"""select v, t, count(*) from (
          select typeof({name}) as t, case when typeof({name}) = 'blob' then x''
            when octet_length({name}) > {SAMPLE_BYTES} then null
            when typeof({name}) = 'text' then cast({name} as blob) else {name} end as v
          from {table} limit {limit}) where t != 'null'
        group by t, v order by 3 desc, v limit {SAMPLE_VALUES}""",
    )
    values: list[Counted] = []
    for value, type_, count in counted:
        if type_ == "text" and value is not None:
            with suppress(UnicodeDecodeError):
                value = value.decode(encoding)
        values.append((value, count))
    return values


def _null_in(connection: apsw.Connection, table: str, column: str, limit: int) -> bool:
    sample = f"select typeof({quote_identifier(column)}) as t from {table} limit {limit}"
    return bool(list(rows(connection, f"select 1 from ({sample}) where t = 'null' limit 1")))


def _examples(values: list[Counted]) -> tuple[str | int | float, ...]:
    fit = (
        value
        for value, _ in values
        if value is not None
        and not isinstance(value, bytes)
        and 0 < len(str(value)) <= LONGEST_EXAMPLE
    )
    return tuple(value for _, value in zip(range(EXAMPLES), fit, strict=False))
