"""Files of records as the field has them: JSONL, a JSON list, one JSON object, or lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from spftcore.errors import SpftError

# Ours, Spider's (db_id, query) and BIRD's (question_id, db_id, SQL).
ID = ("id", "question_id")
DATABASE = ("database", "db_id")
SQL = ("sql", "query", "SQL")
OWN = ("prediction", "predictions", "candidates")

Format = Literal["list", "object", "lines", "text"]


def file_format(path: Path, what: str, *, one_object: bool = False) -> Format:
    """How a file holds its records.

    Args:
        path: the file.
        what: what to call it in messages.
        one_object: it may be one JSON object over the whole file, as BIRD's predictions are.

    Raises:
        SpftError: it cannot be read or is empty.
    """
    line = next((line for _, line in lines(path, what) if line.strip()), None)
    if line is None:
        raise SpftError(f"The {what} {path} is empty.")
    start = line.lstrip()
    if start.startswith("["):
        return "list"
    if not start.startswith(("{", '"')):
        return "text"
    if not one_object:
        return "lines"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        # Only BIRD's object goes over several lines; a broken first line of JSONL ends with }.
        return "lines" if line.rstrip().endswith("}") else "object"
    keys = {*ID, *DATABASE, *SQL, *OWN, "samples"}
    return "object" if isinstance(record, dict) and not keys & record.keys() else "lines"


def records(path: Path, what: str, form: Format) -> Iterator[tuple[str, Any]]:
    """(place, JSON value) of each line or of each member of a list."""
    if form == "list":
        content = parsed(path, what)
        if not content:
            raise SpftError(f"The {what} {path} is empty.")
        for number, record in enumerate(content, 1):
            yield f"record {number} of {path}", record
        return
    for number, line in lines(path, what):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SpftError(
                    f"Line {number} of {path} is not a JSON object: {_cause(error)}."
                ) from None
            yield f"line {number} of {path}", record


def parsed(path: Path, what: str) -> Any:
    """The JSON value that a whole file is. Raises SpftError."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SpftError(f"Cannot read the {what} {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise SpftError(f"The {what} {path} is not UTF-8 text: {error.reason}.") from None
    except (ValueError, RecursionError) as error:
        raise SpftError(f"The {what} {path} is not valid JSON: {_cause(error)}.") from None


def _cause(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"{error.msg} ({line}column {error.colno})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its line feed) of each line.

    Bytes are split before decoding: Python's text files and `splitlines` know line separators that
    may stand inside a JSON string, and a wrong byte is then in a line that can be named.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, raw.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise SpftError(
                        f"Line {number} of {path} is not UTF-8 text. Convert the file first."
                    ) from None
    except OSError as error:
        raise SpftError(f"Cannot read the {what} {path}: {error.strerror}.") from None


def text_of(record: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of these keys that holds a text or a whole number, as a text."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return None


def capital(place: str) -> str:
    """A place at the beginning of a sentence."""
    return place[0].upper() + place[1:]
