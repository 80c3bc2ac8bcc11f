"""The interactive prompt: history, completion, and Ctrl-C that stops a question alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from spftcore.ask.commands import HELP
from spftcore.databases import Database

HISTORY_LINES = 1000
readline: ModuleType | None
try:
    import readline
except ImportError:  # some builds of Python have none
    readline = None


def history_file() -> Path:
    """`$XDG_STATE_HOME/spftcore/ask_history`, or in `~/.local/state`."""
    base = os.environ.get("XDG_STATE_HOME")
    folder = Path(base) if base else Path.home() / ".local" / "state"
    return folder / "spftcore" / "ask_history"


def words_to_complete(database: Database) -> list[str]:
    """Names of the tables and columns, each once."""
    names = [table.name for table in database.tables]
    names += [column.name for table in database.tables for column in table.columns]
    return list(dict.fromkeys(name for name in names if name.isprintable()))


def completions(words: Sequence[str], line: str, begin: int, typed: str) -> list[str]:
    """What a word may go on as, case aside: commands at the start of a line, else names.

    Args:
        words: names of the database.
        line: the whole line.
        begin: where the word begins in it.
        typed: the word so far.
    """
    if line[:begin].strip() == "" and typed.startswith("."):
        # A blank behind those that take something.
        found = [usage for usage in HELP if usage.startswith(typed)]
        return [usage.partition(" ")[0] + (" " if " " in usage else "") for usage in found]
    if not typed:
        return []
    return [word for word in words if word.lower().startswith(typed.lower())]


class Lines:
    """Reads lines from a person. Where there is no readline, without history or completion."""

    def __init__(self, database: Database) -> None:
        self._history = history_file()
        self._words = words_to_complete(database)
        self._prompt = f"{database.id if database.id.isprintable() else 'database'}> "
        if readline is not None:
            self._prepare(readline)

    def _prepare(self, library: ModuleType) -> None:
        with suppress(OSError):
            library.read_history_file(self._history)
        library.set_history_length(HISTORY_LINES)
        library.set_completer_delims(" \t\n,();=<>*+-'\"`")
        library.set_completer(self._completer(library))
        library.parse_and_bind("tab: complete")

    def _completer(self, library: ModuleType) -> Callable[[str, int], str | None]:
        def complete(typed: str, number: int) -> str | None:
            line, begin = library.get_line_buffer(), library.get_begidx()
            found = completions(self._words, line, begin, typed)
            return found[number] if number < len(found) else None

        return complete

    def read(self) -> str:
        """The next line. Raises EOFError at the end, KeyboardInterrupt at Ctrl-C."""
        return input(self._prompt)

    def save(self) -> None:
        """Keeps the history for the next time, readable by its owner alone."""
        if readline is None:
            return
        with suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=0o600)
            readline.write_history_file(self._history)
