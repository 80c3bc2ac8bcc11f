"""Value linking: which values of the database a question mentions, and in which columns."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spftcore.databases import Database, connect, quote_identifier, text_encoding

LONGEST_VALUE = 60  # characters: longer texts are not named in questions
LONGEST_SPAN = 8  # words of a question that may form one value
DISTINCT_VALUES = 50_000  # per column; bounds the memory of the index


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A value of `table.column` that a question mentions, spelled as in the database."""

    table: str
    column: str
    value: str


def words(text: str) -> list[str]:
    """Lower-case words of a text; punctuation separates them."""
    return re.findall(r"[^\W_]+", text.lower())


class ValueIndex:
    """The distinct text values of one database, looked up by their words.

    Read once through a read-only connection and held in memory.
    """

    def __init__(self, database: Database) -> None:
        self._by_words: dict[tuple[str, ...], list[ValueMatch]] = {}
        with connect(database.path) as connection:
            encoding = text_encoding(connection)
            for table in database.tables:
                for column in table.columns:
                    if column.kind != "text" or column.sensitive or table.is_view:
                        continue
                    name, source = quote_identifier(column.name), quote_identifier(table.name)
                    rows = connection.execute(
                        f"select distinct cast({name} as blob) from {source}"
                        f" where typeof({name}) = 'text' and length({name}) <= ? limit ?",
                        (LONGEST_VALUE, DISTINCT_VALUES),
                    )
                    for (stored,) in rows:
                        try:
                            value = stored.decode(encoding)
                        except UnicodeDecodeError:  # no question can spell it
                            continue
                        key = tuple(words(value))
                        if 0 < len(key) <= LONGEST_SPAN and not value.isdigit():
                            match = ValueMatch(table.name, column.name, value)
                            self._by_words.setdefault(key, []).append(match)

    def link(self, question: str, limit: int = 8) -> list[ValueMatch]:
        """Values whose words stand in the question, longest spans first taken, in the order of
        the question; a value of several columns is listed once for each.

        Args:
            question: natural-language question.
            limit: largest number of matches.
        """
        tokens = words(question)
        matches: list[tuple[int, ValueMatch]] = []
        taken = [False] * len(tokens)
        for length in range(min(LONGEST_SPAN, len(tokens)), 0, -1):
            for start in range(len(tokens) - length + 1):
                if any(taken[start : start + length]):
                    continue
                found = self._by_words.get(tuple(tokens[start : start + length]))
                if found:
                    taken[start : start + length] = [True] * length
                    matches += [(start, match) for match in found]
        matches.sort(key=lambda item: item[0])
        return [match for _, match in matches[:limit]]
