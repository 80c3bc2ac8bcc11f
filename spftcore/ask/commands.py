"""What can be typed beside questions: lines that begin with a dot."""

from __future__ import annotations

import difflib
from pathlib import Path

from rich.console import Console
from rich.text import Text

from spftcore.ask.session import Session
from spftcore.ask.shown import print_reply, print_sql, write_csv
from spftcore.ask.why import print_why
from spftcore.databases import Table
from spftcore.errors import SpftError
from spftcore.printable import printable

HELP = {
    ".tables": "the tables, with their rows",
    ".schema [TABLE]": "the columns of a table, or of all, with keys",
    ".sql [SQL]": "run your own query (read-only); without one, the last answer's SQL",
    ".why": "what was linked, what the model saw, what else it wrote, why this was taken",
    ".evidence [TEXT]": "tell the model something with each question; without TEXT, no more",
    ".export csv FILE": "write the last result, all of it, to a new file",
    ".help": "this",
    ".quit": "end (also Ctrl-D)",
}
COMMANDS = tuple(line.split()[0] for line in HELP)


class Quit(Exception):
    """The user has had enough."""


def run_command(console: Console, session: Session, line: str, rows: int) -> bool:
    """Does what a line that begins with a dot asks for.

    Args:
        rows: of a result that are shown.

    Returns:
        False when a query of the user does not run.

    Raises:
        SpftError: there is no such command, or it cannot be done.
        Quit: `.quit`.
    """
    name, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match name:
        case ".tables":
            for table in session.database.tables:
                console.print(Text(_table_line(table)), soft_wrap=True)
        case ".schema":
            _print_schema(console, session, rest)
        case ".sql" if rest:
            reply = session.run(rest)
            print_reply(console, reply, rows)
            return reply.ran
        case ".sql":
            if session.last is None or not session.last.sql:
                raise SpftError("There is no SQL yet. Ask a question, or type .sql and a query.")
            print_sql(console, session.last.sql)
        case ".why":
            print_why(console, session)
        case ".evidence":
            session.evidence = rest
            told = f"With each question: {printable(rest)}" if rest else "No evidence any more."
            console.print(Text(told), soft_wrap=True)
        case ".export":
            _export(console, session, rest)
        case ".help":
            width = max(map(len, HELP))
            console.print(Text("A line is a question to the database, or:"))
            for usage, text in HELP.items():
                console.print(Text(f"  {usage:{width}}  {text}"), soft_wrap=True)
        case ".quit":
            raise Quit
        case _:
            close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
            hint = f"Did you mean {close[0]}?" if close else "See .help."
            raise SpftError(f"There is no command {printable(name)}. {hint}")
    return True


def _table_line(table: Table) -> str:
    kind = "view" if table.is_view else f"{table.rows:,} row{'' if table.rows == 1 else 's'}"
    return f"{printable(table.name)}  ({kind})"


def _print_schema(console: Console, session: Session, name: str) -> None:
    database = session.database
    tables: list[Table] = list(database.tables)
    if name:
        table = database.find(name.strip("\"`[]'"))
        if table is None:
            names = [t.name for t in tables]
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"Did you mean {printable(close[0])}?" if close else "See .tables."
            raise SpftError(f"There is no table {printable(name)}. {hint}")
        tables = [table]
    keys = {(k.table.lower(), k.column.lower()): k for k in database.foreign_keys}
    for table in tables:
        console.print(Text(_table_line(table), "bold"), soft_wrap=True)
        for column in table.columns:
            parts = [f"  {printable(column.name)}", printable(column.declared_type) or column.kind]
            if column.primary_key:
                parts.append("primary key")
            key = keys.get((table.name.lower(), column.name.lower()))
            if key is not None:
                parts.append(f"-> {printable(key.ref_table)}.{printable(key.ref_column)}")
                if key.origin == "proposed":
                    parts.append("(found in the data)")
            if column.sensitive:
                parts.append("(sensitive: the model sees no values)")
            if column.comment:
                parts.append(f"-- {printable(column.comment)}")
            console.print(Text(" ".join(parts)), soft_wrap=True)


def _export(console: Console, session: Session, rest: str) -> None:
    kind, _, name = rest.partition(" ")
    if kind != "csv" or not name.strip():
        raise SpftError("Type .export csv FILE.")
    if session.last is None:
        raise SpftError("There is no result to export. Ask a question first.")
    path = Path(name.strip()).expanduser()
    write_csv(session.last, path)
    console.print(Text(f"{len(session.last.rows):,} rows: {printable(str(path))}"), soft_wrap=True)
