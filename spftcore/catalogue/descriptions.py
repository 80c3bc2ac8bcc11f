"""What lies beside a database in words: `tables.json` (Spider, BIRD) and BIRD's column files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spftcore.errors import SpftError

LONGEST_COMMENT = 300  # characters
_TABLES_JSON = ("tables.json", "dev_tables.json", "train_tables.json")
_FOLDER = "database_description"

End = tuple[str, str]  # table and column


@dataclass(frozen=True)
class Description:
    """Natural names, comments and foreign keys of one database, by name in lower case."""

    names: Mapping[End, str] = field(default_factory=dict)
    comments: Mapping[End, str] = field(default_factory=dict)
    foreign_keys: tuple[tuple[End, End], ...] = ()

    def name(self, table: str, column: str) -> str:
        """The natural name of a column, or of a table (column ''); '' where none is given."""
        return self.names.get((table.lower(), column.lower()), "")

    def comment(self, table: str, column: str) -> str:
        """What is said about a column, '' where nothing is."""
        return self.comments.get((table.lower(), column.lower()), "")


def read_tables_json(folder: Path, given: Path | None) -> dict[str, Mapping[str, Any]]:
    """The records of the file given, else of one in the folder or its parent, by database.

    Raises:
        SpftError: the file is missing or malformed.
    """
    if given is None:
        places = [parent / name for parent in (folder, folder.parent) for name in _TABLES_JSON]
        given = next((place for place in places if place.is_file()), None)
        if given is None:
            return {}
    try:
        records = json.loads(given.read_text(encoding="utf-8-sig"))
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


def description_files(database: Path) -> list[Path]:
    """BIRD's files on columns: `database_description/<table>.csv` beside `<id>/<id>.sqlite`."""
    if database.parent.name != database.stem:
        return []
    return sorted((database.parent / _FOLDER).glob("*.csv"))


def describe(record: Mapping[str, Any] | None, files: Mapping[str, bytes]) -> Description:
    """What a `tables.json` record and BIRD's column files (by table) say.

    What is malformed in either is passed over: they are a help, not a need.
    """
    names: dict[End, str] = {}
    comments: dict[End, str] = {}
    for table, content in files.items():
        _add_columns(table.lower(), content, names, comments)
    keys: list[tuple[End, End]] = []
    if record is not None:
        tables = _list(record, "table_names_original")
        columns = _list(record, "column_names_original")
        for table, natural in zip(tables, _list(record, "table_names"), strict=False):
            names[str(table).lower(), ""] = str(natural)
        for column, natural in zip(columns, _list(record, "column_names"), strict=False):
            end = _end(tables, column)
            if end is not None and isinstance(natural, list) and len(natural) == 2:
                names[end] = str(natural[1])
        for pair in _list(record, "foreign_keys"):
            if isinstance(pair, list) and len(pair) == 2 and all(_in(i, columns) for i in pair):
                source, target = (_end(tables, columns[i]) for i in pair)
                if source is not None and target is not None:
                    keys.append((source, target))
    return Description(names, comments, tuple(keys))


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    return value if isinstance(value, list) else []


def _in(index: Any, items: list[Any]) -> bool:
    return isinstance(index, int) and 0 <= index < len(items)


def _end(tables: list[Any], column: Any) -> End | None:
    if isinstance(column, list) and len(column) == 2 and _in(column[0], tables):
        return str(tables[column[0]]).lower(), str(column[1]).lower()
    return None


def _add_columns(
    table: str, content: bytes, names: dict[End, str], comments: dict[End, str]
) -> None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")  # as some of BIRD's are
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error:
        return
    for row in rows:
        said = {str(key).strip(): _plain(value) for key, value in row.items() if key is not None}
        end = (table, said.get("original_column_name", "").lower())
        if not end[1]:
            continue
        if said.get("column_name"):
            names[end] = said["column_name"]
        parts = [said.get("column_description", ""), said.get("value_description", "")]
        comment = "; ".join(dict.fromkeys(part for part in parts if part))
        if comment:
            comments[end] = shortened(comment)


def _plain(text: Any) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""


def shortened(comment: str) -> str:
    """A comment on one line of at most `LONGEST_COMMENT` characters, cut at a word."""
    comment = " ".join(comment.split())
    if len(comment) <= LONGEST_COMMENT:
        return comment
    return comment[: LONGEST_COMMENT - 1].rsplit(" ", 1)[0] + "…"
