"""The file behind a value index: SQLite with FTS5, beside no user's file, built once.

entries     (id, column, value, key)  every distinct value with its normalised words
aliases     (key, entry)              other keys of a value: its date, its initials
texts       FTS5 over the keys, without content: which entries hold a word
vocabulary  (length, word, entries)   the words, and how many entries hold each
backwards   (length, word)            the words spelled backwards, to find typos near the front
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from spftcore.catalogue.cache import FileState, file_digest, file_state
from spftcore.databases import Column, Database, Table, connect, quote_identifier, text_encoding
from spftcore.errors import SpftError
from spftcore.linking.dates import date_keys
from spftcore.linking.words import key_of

FORMAT = 2  # of the file; another number is built anew
LONGEST_VALUE = 100  # characters: longer texts are not named in questions
ROWS_READ = 4_000_000  # of each table; bounds the time
DISTINCT_VALUES = 2_000_000  # of each column; bounds the size
DISTINCT_NUMBERS = 10_000  # a column of more is a measure, whose values no question names

_SCHEMA = """
create table entries (
    id integer primary key, column integer not null, value not null, key text not null);
create table aliases (key text, entry integer, primary key (key, entry)) without rowid;
create virtual table texts using fts5 (
    key, content = '', detail = none, tokenize = "unicode61 remove_diacritics 0");
"""
_FINISH = """
insert into texts (rowid, key) select id, key from entries where typeof(value) = 'text';
create index entries_by_key on entries (key);
create virtual table temp.terms using fts5vocab (main, texts, row);
create table vocabulary (length, word, entries, primary key (length, word)) without rowid;
insert into vocabulary select length(term), term, doc from terms order by 1, 2;
create table backwards (length, word, primary key (length, word)) without rowid;
"""


def indexed_columns(database: Database) -> list[tuple[Table, Column]]:
    """The columns whose values are linked: those of tables, none that is sensitive."""
    return [
        (table, column)
        for table in database.tables
        if not table.is_view
        for column in table.columns
        if column.kind != "other" and not column.sensitive
    ]


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/spftcore`, or `~/.cache/spftcore`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spftcore"


def open_index(database: Database, cache: Path | None) -> apsw.Connection:
    """The index of a database, read-only: the cached file if it is of this very content, else a
    new one. Where the cache cannot be written, the index is held in memory.

    Raises:
        SpftError: the database cannot be read.
    """
    folder = (cache or default_cache()) / "values"
    path = database.path.resolve()
    file = folder / f"{path.stem[:40]}-{_digest(str(path))[:16]}.sqlite"
    state = _state(database)
    with suppress(apsw.Error, OSError):
        connection = _open(file, state)
        if connection is not None:
            return connection
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=file.stem, suffix=".new")
        os.close(handle)
    except OSError:
        return _build(":memory:", database, state)
    try:
        _build(name, database, state).close()
        os.replace(name, file)  # another process may have been faster: its file is as good
        connection = _open(file, state)
    except (OSError, apsw.FullError, apsw.IOError):  # the disk is full, or the folder is gone
        connection = None
    finally:
        with suppress(OSError):
            os.unlink(name)
    return connection or _build(":memory:", database, state)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class _State:
    """What an index depends on: the file's content, the format and the columns (`context`)."""

    path: Path
    file: FileState
    context: str

    def holds(self, file: object, settled: object, digest: object, context: object) -> bool:
        """Whether an index with this row in its `state` is of the content there is now."""
        if context != self.context:
            return False
        # Times are trusted only where no later write can have left them as they are.
        same = bool(settled) and json.loads(str(file)) == self.file.values
        return same or digest == file_digest(self.path)

    def row(self) -> tuple[str, int, str, str]:
        return (
            json.dumps(self.file.values),
            int(self.file.settled),
            file_digest(self.path),
            self.context,
        )


def _state(database: Database) -> _State:
    columns = [(table.name, c.name, c.kind) for table, c in indexed_columns(database)]
    context = _digest(json.dumps([FORMAT, columns]))
    try:
        return _State(database.path, file_state(database.path), context)
    except OSError as error:
        raise SpftError(
            f"Database {database.path} cannot be read ({error.strerror}). "
            "Restore the file, or remove it from data.databases."
        ) from error


def _open(file: Path, state: _State) -> apsw.Connection | None:
    if not file.is_file():
        return None
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("select file, settled, digest, context from state").fetchall()
    if len(rows) == 1 and state.holds(*rows[0]):
        return connection
    connection.close()
    return None


def _build(name: str, database: Database, state: _State) -> apsw.Connection:
    row = state.row()  # before anything is read: a write meanwhile is then seen the next time
    index = apsw.Connection(name)
    index.execute("pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -65536")
    index.execute("begin; create table state (file, settled, digest, context)" + ";" + _SCHEMA)
    if indexed_columns(database):
        with closing(connect(database.path)) as source:
            for number, (table, column) in enumerate(indexed_columns(database)):
                index.executemany(
                    "insert into entries (column, value, key) values (?, ?, ?)",
                    ((number, value, key) for value, key in _readable(source, table, column)),
                )
                if column.kind == "date":
                    _add_dates(index, number)
    index.execute(_FINISH)
    index.executemany(
        "insert into backwards values (?, ?)",
        (
            (length, str(word)[::-1])
            for length, word in index.execute(
                "select length, word from vocabulary where length > 4"
            ).fetchall()
        ),
    )
    index.execute("insert into state values (?, ?, ?, ?)", row)
    index.execute("commit")
    return index


def _add_dates(index: apsw.Connection, column: int) -> None:
    rows = index.execute("select value, id from entries where column = ?", (column,)).fetchall()
    index.executemany(
        "insert or ignore into aliases values (?, ?)",
        ((key, entry) for value, entry in rows for key in date_keys(str(value))),
    )


def _readable(
    source: apsw.Connection, table: Table, column: Column
) -> Iterator[tuple[str | int | float, str]]:
    """The values of a column as far as SQLite can read them (a damaged page ends them)."""
    with suppress(apsw.Error):
        yield from _values(source, table, column)


def _values(
    source: apsw.Connection, table: Table, column: Column
) -> Iterator[tuple[str | int | float, str]]:
    """The distinct values of a column with their keys, texts in the order of the rows."""
    encoding = text_encoding(source)
    name, rows = quote_identifier(column.name), quote_identifier(table.name)
    if table.rows > ROWS_READ:
        rows = f"(select {name} from {rows} limit {ROWS_READ})"
    if column.kind in ("number", "boolean"):
        rows_found = source.execute(
            f"select distinct {name} from {rows} where typeof({name}) in ('integer', 'real')"
            f" limit {DISTINCT_NUMBERS + 1}"
        )
        numbers = [number for (number,) in rows_found if isinstance(number, int | float)]
        if len(numbers) <= DISTINCT_NUMBERS:
            yield from ((number, _number_key(number)) for number in numbers)
        if column.kind == "number":
            return
    found = source.execute(
        f"select distinct cast({name} as blob) from {rows}"
        f" where typeof({name}) = 'text' and length({name}) <= ? limit ?",
        (LONGEST_VALUE, DISTINCT_VALUES),
    )
    for (stored,) in found:
        try:
            value = bytes(stored).decode(encoding)
        except UnicodeDecodeError:  # no question can spell it
            continue
        key = key_of(value)
        if key:
            yield value, key


def _number_key(number: int | float) -> str:
    whole = isinstance(number, float) and number.is_integer() and abs(number) < 1e15
    return key_of(str(int(number) if whole else number))
