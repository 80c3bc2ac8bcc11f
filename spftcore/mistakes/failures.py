"""Why an answer did not run, from the status and SQLite's message."""

from __future__ import annotations

import re

from spftcore.verify.outcomes import Status

_BY_MESSAGE = (
    (re.compile(r"no such table"), "no such table"),
    (re.compile(r"no such column"), "no such column"),
    (re.compile(r"no such function"), "no such function"),
    (re.compile(r"ambiguous column"), "ambiguous column"),
    (re.compile(r"misuse of (aggregate|window)"), "misplaced aggregate"),
    (re.compile(r"a GROUP BY clause is required"), "misplaced aggregate"),
    (re.compile(r"wrong number of arguments|argument count"), "wrong arguments of a function"),
    (re.compile(r"do not have the same number of result columns"), "sides of different width"),
    (re.compile(r"sub-select returns \d+ columns|row value misused"), "sub-query of many columns"),
    (re.compile(r"ORDER BY clause should come after|LIMIT clause should come"), "syntax error"),
    (re.compile(r"incomplete input|unrecognized token|syntax error"), "syntax error"),
)
_BY_STATUS = {
    "syntax_error": "syntax error",
    "missing_name": "no such name",
    "sql_error": "other error",
    "denied": "not allowed",
    "step_budget": "takes too long",
    "time_budget": "takes too long",
    "too_large": "result too large",
    "database_error": "database error",
    "crashed": "crashed",
}
NO_SQL = "no SQL"
RAN = frozenset(("ok", "empty"))


def failure(sql: str, status: str, message: str) -> str:
    """The class of an answer that did not run; empty for one that ran.

    Args:
        sql: the answer.
        status: lower-case name of a `Status`; empty where it is not known.
        message: SQLite's message.
    """
    if not sql.strip().strip(";"):
        return NO_SQL
    if status in RAN or not status:
        return ""
    if status in (Status.SYNTAX_ERROR.name.lower(), Status.MISSING_NAME.name.lower(), "sql_error"):
        for pattern, name in _BY_MESSAGE:
            if pattern.search(message):
                return name
    return _BY_STATUS.get(status, "other error")
