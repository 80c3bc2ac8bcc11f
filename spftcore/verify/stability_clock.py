"""Where a query reads the clock, and its text at another instant."""

from __future__ import annotations

from collections.abc import Iterator

from spftcore.verify.stability_text import Structure

# Long past, a leap day, and far ahead.
INSTANTS = ("1900-01-02 03:04:05", "2000-02-29 12:00:00", "2150-11-30 23:58:59")
_CLOCK_WORDS = {"current_date": "date", "current_time": "time", "current_timestamp": "datetime"}
_CLOCK_FUNCTIONS = frozenset(("date", "time", "datetime", "julianday", "unixepoch"))


def clock_readings(structure: Structure) -> Iterator[tuple[int, int, str]]:
    """(start, end, replacement) of each reading of the clock; `{}` stands for the instant."""
    tokens = structure.tokens
    for i, token in enumerate(tokens):
        if token.kind in ("string", "quoted") and token.text.lower() in ("'now'", '"now"'):
            yield token.start, token.end, "'{}'"
        elif token.plain in _CLOCK_WORDS and token.kind == "name":
            yield token.start, token.end, f"{_CLOCK_WORDS[token.plain]}('{{}}')"
        elif structure.is_call(i):
            close = structure.closing[i + 1]
            if token.plain in _CLOCK_FUNCTIONS and close == i + 2:
                yield tokens[close].start, tokens[close].start, "'{}'"
            elif token.plain == "strftime" and close == i + 3:
                yield tokens[close].start, tokens[close].start, ", '{}'"


def at_instant(sql: str, edits: list[tuple[int, int, str]], instant: str) -> str:
    """The text with the instant in each of those places."""
    for start, end, text in reversed(edits):
        sql = sql[:start] + text.format(instant) + sql[end:]
    return sql
