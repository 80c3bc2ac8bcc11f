"""Comments on columns inside a CREATE TABLE statement, which SQLite keeps as it was written."""

from __future__ import annotations

import re

from spftcore.catalogue.descriptions import shortened

_TOKEN = re.compile(
    r"""(?P<line>--[^\n]*)|(?P<block>/\*.*?(?:\*/|\Z))
    |(?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*'|[\w$]+)
    |(?P<newline>\n)|(?P<sign>[^\s])""",
    re.DOTALL | re.VERBOSE,
)
_CONSTRAINTS = frozenset(("constraint", "primary", "unique", "check", "foreign"))


def create_comments(sql: str) -> dict[str, str]:
    """Comments by column, in lower case.

    A comment on the line of a column's definition belongs to that column, also after the comma; one
    on a line of its own belongs to the column that follows. Several are joined.
    """
    found: dict[str, list[str]] = {}
    waiting: list[str] = []  # comments on lines of their own
    depth = 0
    column = ""  # whose definition is being read
    last = ""  # whose definition has something on this line
    starts = True  # whether the next name begins a definition
    for token in _TOKEN.finditer(sql):
        kind, text = token.lastgroup, token.group()
        if kind in ("line", "block"):
            said = text[2:] if kind == "line" else text[2:].removesuffix("*/")
            said = said.strip().strip("-*").strip()
            if last:
                found.setdefault(last, []).append(said)
            elif depth == 1:
                waiting.append(said)
            if kind == "block" and "\n" in text:
                last = ""
        elif kind == "newline":
            last = "" if starts else column
        elif text == "(":
            depth += 1
            if depth == 1:
                # What stands on the line of the opening bracket is about the table.
                line = sql[token.end() :].split("\n", 1)[0].strip()
                starts = True
                if line.startswith("--"):
                    last = _TABLE
        elif text == ")":
            depth -= 1
            if depth == 0:
                column = last = ""
        elif text == "," and depth == 1:
            starts = True
        elif kind == "name" and depth == 1 and starts:
            starts = False
            column = _unquoted(text)
            if text.lower() in _CONSTRAINTS:
                column = ""
            last = column
            if column:
                found.setdefault(column, []).extend(waiting)
            waiting = []
    found.pop(_TABLE, None)
    comments = {name: shortened("; ".join(filter(None, said))) for name, said in found.items()}
    return {name: comment for name, comment in comments.items() if comment}


_TABLE = "\n"  # no column has this name


def _unquoted(name: str) -> str:
    quote = name[0]
    if quote == "[":
        return name[1:-1].lower()
    if quote in "\"`'":
        return name[1:-1].replace(quote * 2, quote).lower()
    return name.lower()
