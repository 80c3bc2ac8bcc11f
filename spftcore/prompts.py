"""The one prompt renderer: training, synthesis and evaluation see the same bytes for one input."""

from __future__ import annotations

import re
from functools import lru_cache

from spftcore.config import PromptConfig
from spftcore.databases import Catalogue, Database, Table
from spftcore.linking import ValueIndex, ValueMatch
from spftcore.synthesis.sql_text import identifier

_FENCE = re.compile(r"```(?:sqlite|sql)?\s*(.*?)(?:```|$)", re.DOTALL | re.IGNORECASE)
# What SQL is cut into, from the left: quoted text, comments, blanks, the end of a statement.
_PIECE = re.compile(
    r"(?P<quoted>'(?:[^']|'')*'?|\"(?:[^\"]|\"\")*\"?|`[^`]*`?|\[[^\]]*\]?)"
    r"|(?P<blank>(?:\s|--[^\n]*|/\*.*?(?:\*/|$))+)|(?P<end>;)|.",
    re.DOTALL,
)


class PromptRenderer:
    """Renders prompts for both directions, with one value index per database (built on first use).

    Styles: `ddl` shows the whole schema with example values; `linked` only names the database
    (for a small model trained on a fixed set of databases, whose weights hold the schema). Both
    name the values of the database that the question mentions.
    """

    def __init__(self, config: PromptConfig, catalogue: Catalogue) -> None:
        self._style = config.style
        self._catalogue = catalogue
        self._indexes: dict[str, ValueIndex] = {}
        self._schema = lru_cache(maxsize=None)(self._render_schema)

    def text_to_sql(self, question: str, database_id: str, evidence: str = "") -> str:
        """The prompt whose completion is SQL."""
        values = self._values(question, database_id)
        if self._style == "linked":
            # Lower case, because a model this small should not learn each word twice; values keep
            # their case in the linked part.
            parts = [database_id, values, evidence.lower(), question.lower()]
            return " | ".join(part for part in parts if part) + " =>"
        lines = [self._schema(database_id)]
        if values:
            lines.append(f"-- values in the database: {values}")
        if evidence:
            lines.append(f"-- hint: {evidence}")
        lines.append(f"-- question: {question}")
        lines.append("-- One SQLite query that answers the question:")
        return "\n".join(lines) + "\n"

    def sql_to_text(self, masked_sql: str, database_id: str, draft: str = "") -> str:
        """The prompt whose completion is a question; literals are masked (`mask_literals`).

        `draft` is the question by rule, masked likewise; a small model that knows its databases by
        heart (`linked`) does without.
        """
        if self._style == "linked":
            return f"{database_id} | {masked_sql} =>"
        lines = [
            self._schema(database_id),
            f"-- query: {masked_sql}",
            *([f"-- said word for word: {draft}"] if draft else []),
            "-- The question in English that this query answers"
            " (keep value1, value2, … as they stand):",
        ]
        return "\n".join(lines) + "\n"

    def question(self, question: str) -> str:
        """A question as the completion that the SQL-to-Text model learns."""
        return question.lower() if self._style == "linked" else question

    def _values(self, question: str, database_id: str) -> str:
        index = self._indexes.get(database_id)
        if index is None:
            index = self._indexes[database_id] = ValueIndex(self._catalogue[database_id])
        return ", ".join(_condition(match) for match in index.link(question))

    def _render_schema(self, database_id: str) -> str:
        database = self._catalogue[database_id]
        return "\n".join(_create_table(database, table) for table in database.tables)


def _condition(match: ValueMatch) -> str:
    # Spelled as in SQL, so that the model can copy the condition token by token.
    return f"{identifier(match.table)}.{identifier(match.column)} = {_literal(match.value)}"


def _literal(value: str | int | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def _create_table(database: Database, table: Table) -> str:
    keys = {
        key.column.lower(): " references "
        f"{identifier(key.ref_table)} ({identifier(key.ref_column)})"
        for key in database.foreign_keys
        if key.table.lower() == table.name.lower()
    }
    lines = []
    for column in table.columns:
        line = f"  {identifier(column.name)} {column.declared_type.lower() or column.kind}"
        if column.primary_key:
            line += " primary key"
        line += keys.get(column.name.lower(), "") + ","
        notes = []
        if column.natural_name and column.natural_name != column.name.lower():
            notes.append(column.natural_name)
        if column.examples and not column.primary_key:
            notes.append("e.g. " + ", ".join(_literal(value) for value in column.examples))
        if notes:
            line += " -- " + "; ".join(notes)
        lines.append(line)
    return "\n".join([f"create table {identifier(table.name)} (", *lines, ");"])


def parse_sql(completion: str) -> str:
    """The SQL in a completion: out of a Markdown fence if there is one, up to the first `;` that
    is not quoted, without comments, on one line."""
    fence = _FENCE.search(completion)
    text = fence.group(1) if fence else completion
    parts = []
    for piece in _PIECE.finditer(text):
        if piece.lastgroup == "end":
            break
        parts.append(" " if piece.lastgroup == "blank" else piece.group())
    return "".join(parts).strip()
