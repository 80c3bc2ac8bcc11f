"""Replies as a person reads them (a table under its SQL), and as a program does (JSON, CSV)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from spftcore.ask.session import NO_ANSWER, Reply
from spftcore.ask.values import plain, shown
from spftcore.errors import SpftError
from spftcore.printable import printable

LONGEST_VALUE = 60  # characters of one value in a table
LEAST_TEXT = 12  # characters a column of texts is given before columns are left out
GAP = 3  # characters between two columns


def print_reply(console: Console, reply: Reply, rows: int) -> None:
    """The SQL, its result as a table of at most `rows` rows, and what there is to say of it."""
    if reply.sql:
        print_sql(console, reply.sql)
    if not reply.ran:
        what = "No answer" if reply.status == NO_ANSWER else "It does not run"
        line = Text.assemble((f"{what}: ", "bold red"), printable(reply.message))
        console.print(line, soft_wrap=True)
        return
    if reply.rows:
        hidden = _print_table(console, reply, rows)
        if hidden:
            listed = f"{_counted(len(hidden), 'more column')}: {', '.join(hidden)}"
            console.print(Text(listed, "dim"), soft_wrap=True)
    console.print(Text(_summary(reply, rows), "dim"))


def print_sql(console: Console, sql: str) -> None:
    """SQL in colours where there are any."""
    text = printable(sql)
    if console.is_terminal:
        syntax = Syntax(text, "sql", theme="ansi_dark", background_color="default", word_wrap=True)
        console.print(syntax)
    else:
        console.print(Text(text), soft_wrap=True)


def _summary(reply: Reply, rows: int) -> str:
    parts = [_counted(len(reply.rows), "row") if reply.rows else "no rows"]
    if len(reply.rows) > rows:
        parts[0] = f"{len(reply.rows) - rows:,} more ({_counted(len(reply.rows), 'row')})"
    parts.append(f"{reply.seconds:.2f} s")
    if reply.answered is not None and len(reply.answered.candidates) > 1:
        parts.append(reply.answered.reason)
    return " · ".join(parts)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _print_table(console: Console, reply: Reply, rows: int) -> list[str]:
    """Prints what fits. Returns the names of the columns left out."""
    head = reply.rows[:rows]
    cells = [
        [shown(value, LONGEST_VALUE) for value in column] for column in zip(*head, strict=True)
    ]
    names = [shown(name, LONGEST_VALUE) for name in reply.columns]
    numbers = [
        all(isinstance(value, (int, float, type(None))) for value in column)
        for column in zip(*head, strict=True)
    ]
    # A number is shown whole, a text as far as there is room for it.
    least = [
        max(map(len, column)) if number else min(LEAST_TEXT, max(map(cell_len, (name, *column))))
        for name, column, number in zip(names, cells, numbers, strict=True)
    ]
    fitting = 1
    while fitting < len(names) and sum(least[: fitting + 1]) + GAP * fitting <= console.width:
        fitting += 1
    room = console.width - sum(least[:fitting]) - GAP * (fitting - 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, column, number, width in zip(names[:fitting], cells, numbers, least, strict=False):
        more = min(max(room, 0), max(map(cell_len, (name, *column))) - width)
        room -= more
        table.add_column(
            Text(name),
            justify="right" if number else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=width + more,
        )
    for row, values in zip(zip(*cells, strict=True), head, strict=True):
        table.add_row(
            *(
                Text(text, "dim italic" if value is None else "")
                for text, value in zip(row[:fitting], values, strict=False)
            )
        )
    console.print(table)
    return names[fitting:]


def json_line(reply: Reply, rows: int) -> str:
    """One JSON object on one line, with at most `rows` rows."""
    record: dict[str, Any] = {
        "question": reply.question,
        "sql": reply.sql,
        "status": reply.status,
        "columns": list(reply.columns),
        "rows": [[plain(value) for value in row] for row in reply.rows[:rows]],
        "message": reply.message,
        "seconds": round(reply.seconds, 3),
        "truncated": len(reply.rows) > rows,
    }
    # ASCII: also half a surrogate pair can be written, and no line break of Unicode ends the line.
    return json.dumps(record, allow_nan=False)


def write_csv(reply: Reply, path: Path) -> None:
    """The whole result with its header; NULL is an empty field, a blob its hexadecimal digits.

    Raises:
        SpftError: there is no result, the file exists, or it cannot be written.
    """
    if not reply.ran:
        raise SpftError("There is no result to export. Ask a question first.")
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(reply.columns)
            writer.writerows(
                [value.hex() if isinstance(value, bytes) else value for value in row]
                for row in reply.rows
            )
    except FileExistsError:
        raise SpftError(f"{path} exists and is not overwritten. Name another file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SpftError(f"{path} cannot be written ({error}). Name another file.") from None
