"""Asks a database in plain language: `python -m spftcore.ask --database FILE --model runs/NAME`.

Without a question: a prompt (`.help` lists what it knows), or, where the input is a pipe, one
question a line. The file is opened read-only; every query runs under the executor's limits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from spftcore.ask.commands import Quit, run_command
from spftcore.ask.session import Session
from spftcore.ask.shown import json_line, print_reply
from spftcore.ask.terminal import Lines
from spftcore.config import OptionParser
from spftcore.databases import Catalogue
from spftcore.errors import SpftError, UsageError
from spftcore.inference.opening import OpenModel
from spftcore.inference.options import add_model_options, model_given
from spftcore.linking.index_file import default_cache
from spftcore.printable import printable
from spftcore.verify import Executor, Limits

ROWS = 20  # of a table
JSON_ROWS = 1000
EXIT_CODES = "exit code: 0, all questions answered; 1, one has no result; 2, wrong usage"


def parser() -> OptionParser:
    """The command line."""
    options = OptionParser(
        prog="python -m spftcore.ask",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("question", nargs="?", metavar="QUESTION", help="answer it and end")
    options.add_argument(
        "--database", type=Path, required=True, metavar="FILE", help="the SQLite file"
    )
    options.add_argument("--evidence", default="", metavar="TEXT", help="told with each question")
    options.add_argument(
        "--json", action="store_true", help="one JSON object per question, for programs"
    )
    options.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help=f"rows shown of a result (default: {ROWS}; with --json {JSON_ROWS:,})",
    )
    add_model_options(options)
    return options


@contextmanager
def open_session(arguments: argparse.Namespace, errors: Console) -> Iterator[Session]:
    """Reads the database and loads the model.

    Raises:
        SpftError: one of them is missing or cannot be read.
    """
    source, strategy = model_given(arguments)
    path: Path = arguments.database
    if not path.exists():
        raise SpftError(f"There is no file {path}. Name a SQLite file with --database.")
    with errors.status("reading the database"):
        # What the run knows of its own databases' keys says nothing about this one.
        data = source.config.data.model_copy(update={"tables_json": None})
        catalogue = Catalogue.of_files({path.stem: path}, data, default_cache() / "catalogue")
    (database,) = catalogue.values()
    bounds = source.config.limits
    limits = Limits(steps=bounds.steps, seconds=bounds.seconds)
    with errors.status("loading the model"):
        model = OpenModel(source)
    with (
        model,
        Executor(threads=1, limits=limits) as executor,
        model.answerer(catalogue, strategy, threads=1) as answerer,
    ):
        session = Session(database, answerer, executor)
        session.evidence = arguments.evidence
        yield session


def converse(session: Session, console: Console, errors: Console, rows: int) -> None:
    """The interactive prompt, until `.quit` or the end of the input."""
    lines = Lines(session.database)
    count = len(session.database.tables)
    greeting = f"{session.database.path}: {count} table{'' if count == 1 else 's'}. .help for help."
    console.print(Text(printable(greeting), "dim"), soft_wrap=True)
    try:
        while True:
            try:
                line = lines.read().strip()
                if line:
                    handle(session, console, errors, line, rows)
            except KeyboardInterrupt:
                console.print(Text("Stopped. .quit ends.", "dim"))
            except EOFError:
                console.print()
                return
            except Quit:
                return
    finally:
        lines.save()


def handle(session: Session, console: Console, errors: Console, line: str, rows: int) -> bool:
    """One line: a command, or a question. Returns whether it was answered."""
    try:
        if line.startswith("."):
            return run_command(console, session, line, rows)
        with errors.status("asking"):
            reply = session.ask(line)
        print_reply(console, reply, rows)
        return reply.ran
    except SpftError as error:
        print_error(errors, error)
        return False


def answer_all(
    session: Session,
    questions: Iterator[str],
    console: Console,
    errors: Console,
    arguments: argparse.Namespace,
) -> bool:
    """Questions one after the other, each answered before the next is read. Returns whether all
    have a result."""
    complete = True
    for line in questions:
        question = line.strip()
        if not question:
            continue
        if arguments.json:
            reply = session.ask(question)
            print(json_line(reply, arguments.rows), flush=True)
            complete &= reply.ran
            continue
        try:
            complete &= handle(session, console, errors, question, arguments.rows)
        except Quit:
            break
    return complete


def print_error(errors: Console, error: SpftError) -> None:
    errors.print(Text.assemble(("Error: ", "bold red"), printable(str(error))), soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    console, errors = Console(), Console(stderr=True)
    try:
        arguments = parser().parse(argv)
        if arguments.rows is None:
            arguments.rows = JSON_ROWS if arguments.json else ROWS
        if arguments.rows < 1:
            raise UsageError(f"--rows must be at least 1, not {arguments.rows}.")
        if arguments.question is not None and not arguments.question.strip():
            raise UsageError("The question is empty. Leave it out for a prompt.")
        with open_session(arguments, errors) as session:
            if arguments.question is None and sys.stdin.isatty() and not arguments.json:
                converse(session, console, errors, arguments.rows)
                return 0
            if hasattr(sys.stdin, "reconfigure"):
                sys.stdin.reconfigure(encoding="utf-8", errors="replace")
            questions = sys.stdin if arguments.question is None else [arguments.question]
            complete = answer_all(session, iter(questions), console, errors, arguments)
            return 0 if complete else 1
    except SpftError as error:
        print_error(errors, error)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # the reader has left
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        errors.print("Stopped.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
