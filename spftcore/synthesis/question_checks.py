"""Checks of a written question by its text alone: literals, length, SQL that leaked."""

from __future__ import annotations

import re

from spftcore.databases import Database
from spftcore.synthesis.placeholders import forms, writes
from spftcore.synthesis.sql_text import spoken

SHORTEST, LONGEST = 3, 120  # words

# SQL that no sentence holds by chance; `select` and `order by` alone are English.
_SQL = re.compile(
    r"\bselect\b.+\bfrom\b.+\b(where|group by|order by|join|limit)\b|\bselect\s+(\*|distinct\b)"
    r"|\b(group|order)\s+by\b\s+\S+\s+(asc|desc)\b|\bgroup by\b|\bpartition by\b"
    r"|\b(inner|left|outer|cross)\s+join\b|\bjoin\b.+\bon\b.+="
    r"|\b(count|sum|avg|min|max|cast|substr|strftime|distinct)\s?\("
    r"|\bcase\s+when\b|\bis\s+not\s+null\b|\bis\s+null\b|\b(asc|desc)\b\s*(limit\b|$)"
    r"|\blimit\s+(\d+|value\d+)\s*$|[<>=]|!=|\|\||;\s*$|`|(?<!\w)\*(?!\w)",
    re.IGNORECASE | re.DOTALL,
)
_DOTTED = re.compile(r"\b([^\W\d]\w*)\.([^\W\d]\w*)")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
_SNAKE = re.compile(r"\b\w+_\w+\b")


def without_literals(question: str, literals: list[str]) -> str:
    """A question with its query's literals taken out, so that only the words are looked at."""
    ways = {form for literal in literals for form in forms(spoken(literal))}
    for said in sorted(ways, key=lambda way: (-len(way), way)):
        if said.strip():
            pattern = re.compile(rf"(?<!\w){re.escape(said)}(?!\w)", re.IGNORECASE)
            question = pattern.sub(" … ", question)
    return question


def literal_fault(question: str, literals: list[str], allowed: str) -> str | None:
    """`literal lost` where one of the query's is missing, `literal invented` where a number
    stands there that neither the query nor the words of `allowed` hold."""
    if not all(writes(question, literal) for literal in literals):
        return "literal lost"
    known = set(_NUMBER.findall(allowed))
    rest = without_literals(question, literals)
    # "The 1 …" and "0 or more" are words for what the query says without a number.
    if any(number not in known | {"0", "1"} for number in _NUMBER.findall(rest)):
        return "literal invented"
    return None


def length_fault(question: str) -> str | None:
    """`too short` or `too long`."""
    count = len(question.split())
    if count < SHORTEST:
        return "too short"
    return "too long" if count > LONGEST else None


def leak_fault(question: str, literals: list[str], database: Database) -> str | None:
    """`SQL leaked` where keywords, operators, `table.column` or a name as it stands in the schema
    (`flight_no`) show that the query was copied instead of asked."""
    text = without_literals(question, literals)
    if _SQL.search(text):
        return "SQL leaked"
    for table, column in _DOTTED.findall(text):
        found = database.find(table)
        if re.fullmatch(r"t\d+", table, re.IGNORECASE):
            return "SQL leaked"
        if found is not None and found.find(column) is not None:
            return "SQL leaked"
    names = {t.name.lower() for t in database.tables}
    names |= {c.name.lower() for t in database.tables for c in t.columns}
    natural = {t.natural_name.lower() for t in database.tables}
    natural |= {c.natural_name.lower() for t in database.tables for c in t.columns}
    if any(word.lower() in names - natural for word in _SNAKE.findall(text)):
        return "SQL leaked"
    return None
