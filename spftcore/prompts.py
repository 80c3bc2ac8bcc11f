"""The one prompt renderer: training, synthesis and evaluation see the same bytes for one input."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spftcore.config import PromptConfig
from spftcore.databases import Database
from spftcore.linking import ValueIndex
from spftcore.linking.golds import needed, padded
from spftcore.linking.schema import Needed, SchemaView, choose, score_schema
from spftcore.linking.trimming import Trimming
from spftcore.linking.values import ValueMatch
from spftcore.schema_text import SchemaStyle, condition, on_one_line, one_line, schema_text

LIKELY = 0.05  # values with a lower probability of being needed are not shown
LONGEST_MESSAGE = 200  # characters; what SQLite says of a long query may quote much of it
if TYPE_CHECKING:
    import torch

    from spftcore.linking.reranker import Reranker

_FENCE = re.compile(r"```(?:sqlite|sql)?\s*(.*?)(?:```|$)", re.DOTALL | re.IGNORECASE)
_MASK = re.compile(r"\bvalue\d+\b")
# What SQL is cut into, from the left: quoted text, comments, blanks, the end of a statement.
_PIECE = re.compile(
    r"(?P<quoted>'(?:[^']|'')*'?|\"(?:[^\"]|\"\")*\"?|`[^`]*`?|\[[^\]]*\]?)"
    r"|(?P<blank>(?:\s|--[^\n]*|/\*.*?(?:\*/|$))+)|(?P<end>;)|.",
    re.DOTALL,
)


class PromptRenderer:
    """Renders prompts for both directions, with one value index per database (opened on first
    use).

    Styles: `ddl` and `compact` show the tables and columns that the schema filter keeps, with
    example values; `linked` only names the database (for a small model trained on a fixed set of
    databases, whose weights hold the schema). All name the values of the database that the
    question mentions.

    Args:
        config: style, and how much is shown.
        catalogue: the databases.
        seed: of the padding of training prompts.
        cache: folder of the value indexes; None: `$XDG_CACHE_HOME/spftcore`.
        device: where the reranker runs, if there is one; None: the CPU.

    Raises:
        SpftError: the reranker cannot be loaded.
    """

    def __init__(
        self,
        config: PromptConfig,
        catalogue: Mapping[str, Database],
        *,
        seed: int = 0,
        cache: Path | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._config = config
        self._style = config.style
        self._schema_style: SchemaStyle = "compact" if config.style == "compact" else "ddl"
        self._catalogue = catalogue
        self._seed = seed
        self._cache = cache
        self._indexes: dict[str, ValueIndex] = {}
        self._reranker: Reranker | None = None
        if config.reranker is not None and config.style != "linked":
            from spftcore.linking.reranker import Reranker  # takes seconds, and few need it

            self._reranker = Reranker(config.reranker, device)

    def text_to_sql(
        self,
        question: str,
        database_id: str,
        evidence: str = "",
        *,
        gold: str = "",
        pair: str = "",
        fits: Callable[[str], bool] | None = None,
    ) -> str:
        """The prompt whose completion is SQL: a pure function of its arguments, the settings and
        the databases.

        Args:
            question: natural-language question.
            database_id: of the catalogue.
            evidence: BIRD's hint, if any.
            gold: the query that will be learned from this prompt. Its tables and columns are then
                shown whatever the filter says, and others besides at random.
            pair: id of the pair, which seeds the choice of the others.
            fits: says whether a prompt is short enough. One that is not is trimmed (`Trimming`);
                if even the shortest does not fit, that one is returned.
        """
        if self._style == "linked":
            # Lower case, because a model this small should not learn each word twice; values keep
            # their case in the linked part.
            values = ", ".join(_conditions(self._index(database_id).mentions(question)))
            parts = [database_id, values, evidence.lower(), question.lower()]
            return " | ".join(part for part in parts if part) + " =>"
        trimming = self._trimming(question, database_id, evidence, gold, pair)

        def prompt(level: int) -> str:
            view, detail, values = trimming.at(level)
            lines = [schema_text(view, self._schema_style, detail)]
            if conditions := _conditions(values):
                lines.append(f"-- values in the database: {', '.join(conditions)}")
            if evidence:
                lines.append(f"-- hint: {one_line(evidence)}")
            lines.append(f"-- question: {one_line(question)}")
            lines.append("-- One SQLite query that answers the question:")
            return "\n".join(lines) + "\n"

        return _fitting(prompt, trimming.levels, fits)

    def linking(
        self, question: str, database_id: str, evidence: str = ""
    ) -> tuple[SchemaView | None, list[ValueMatch]]:
        """What the prompt of a question shows before it is trimmed: the tables and columns, with
        their scores, and the values. A `linked` prompt shows no schema."""
        if self._style == "linked":
            return None, self._index(database_id).mentions(question)
        trimming = self._trimming(question, database_id, evidence, "", "")
        view, _, values = trimming.at(0)
        return view, values

    def repair(self, prompt: str, sql: str, message: str) -> str:
        """The prompt of a second try: the first one, what was answered, and what is wrong with it.

        Args:
            prompt: of `text_to_sql`.
            sql: the answer to it.
            message: what running it said.
        """
        said = one_line(message)[:LONGEST_MESSAGE]
        if self._style == "linked":
            return f"{prompt} {one_line(sql)} | {said.lower()} =>"
        return f"{prompt}{one_line(sql)}\n-- This query is wrong: {said}\n-- The corrected query:\n"

    def _trimming(
        self, question: str, database_id: str, evidence: str, gold: str, pair: str
    ) -> Trimming:
        config, database = self._config, self._catalogue[database_id]
        linked = self._index(database_id).link(question, config.values, evidence)
        text = f"{question} ; {evidence}" if evidence else question
        if self._reranker is None:
            scored = score_schema(database, text, linked)
        else:
            scored = self._reranker.score(database, text)
        need = needed(gold, database) if gold else Needed(frozenset(), frozenset())
        if gold:
            scored = padded(
                database,
                scored,
                need,
                tables=config.tables,
                columns=config.columns,
                seed=f"{self._seed}:{pair}",
            )
        view = choose(database, scored, tables=config.tables, columns=config.columns, needed=need)
        shown = {(t.table.name, c.name) for t in view.tables for c in t.columns}
        values = [m for m in linked if m.score >= LIKELY and (m.table, m.column) in shown]
        return Trimming(view, values, need)

    def sql_to_text(
        self,
        masked_sql: str,
        database_id: str,
        draft: str = "",
        *,
        fits: Callable[[str], bool] | None = None,
    ) -> str:
        """The prompt whose completion is a question; literals are masked (`mask_literals`).

        It shows the tables and columns of the query, and as many others as a text-to-SQL prompt.

        Args:
            masked_sql: the query.
            database_id: of the catalogue.
            draft: the question by rule, masked likewise; a small model that knows its databases
                by heart (`linked`) does without.
            fits: as of `text_to_sql`.
        """
        if self._style == "linked":
            return f"{database_id} | {masked_sql} =>"
        config, database = self._config, self._catalogue[database_id]
        need = needed(_unmasked(masked_sql, database), database)
        scored = score_schema(database, draft or masked_sql, ())
        view = choose(database, scored, tables=config.tables, columns=config.columns, needed=need)
        trimming = Trimming(view, (), need)

        def prompt(level: int) -> str:
            part, detail, _ = trimming.at(level)
            lines = [
                schema_text(part, self._schema_style, detail),
                f"-- query: {one_line(masked_sql)}",
                *([f"-- said word for word: {one_line(draft)}"] if draft else []),
                "-- The question in English that this query answers"
                " (keep value1, value2, … as they stand):",
            ]
            return "\n".join(lines) + "\n"

        return _fitting(prompt, trimming.levels, fits)

    def question(self, question: str) -> str:
        """A question as the completion that the SQL-to-Text model learns."""
        return question.lower() if self._style == "linked" else question

    def _index(self, database_id: str) -> ValueIndex:
        index = self._indexes.get(database_id)
        if index is None:
            index = ValueIndex(self._catalogue[database_id], self._cache)
            self._indexes[database_id] = index
        return index


def _fitting(prompt: Callable[[int], str], levels: int, fits: Callable[[str], bool] | None) -> str:
    """The prompt of the first level that fits, else of the last."""
    text = prompt(0)
    if fits is None or fits(text):
        return text
    low, high = 1, levels - 1  # the answer lies between, or is the last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(prompt(middle)) else (middle + 1, high)
    return prompt(low)


def _conditions(values: Sequence[ValueMatch]) -> list[str]:
    return [text for text in map(condition, values) if on_one_line(text)]


def _unmasked(masked_sql: str, database: Database) -> str:
    """A masked query with literals again, so that no mask is taken for a column."""
    columns = {column.name.lower() for table in database.tables for column in table.columns}
    return _MASK.sub(
        lambda match: match.group() if match.group().lower() in columns else "1", masked_sql
    )


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
