"""A cross-encoder of the user's choice in place of the lexical scores of tables and columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from spftcore.databases import Database
from spftcore.errors import SpftError
from spftcore.linking.schema import Scores

BATCH = 64  # pairs of texts scored together
LONGEST_PAIR = 512  # tokens of question and name; more is cut off


class Reranker:
    """Scores (question, table) and (question, column) with a sequence classifier.

    Args:
        name: folder or hub id of a `transformers` sequence-classification checkpoint in
            safetensors, with one label (a score) or two (no, yes). Its own code is not run.
        device: where it runs; None: the CPU.

    Raises:
        SpftError: it cannot be loaded, or has more labels.
    """

    def __init__(self, name: str, device: torch.device | None = None) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True
            )
        except Exception as error:  # the loaders raise all kinds
            raise SpftError(
                f"The reranker {name} cannot be loaded ({type(error).__name__}: {error}). "
                "prompt.reranker wants a sequence-classification checkpoint in safetensors."
            ) from error
        if model.config.num_labels not in (1, 2):
            raise SpftError(
                f"The reranker {name} has {model.config.num_labels} labels; it must have one (a "
                "score) or two (no, yes). Choose another for prompt.reranker."
            )
        self._device = device or torch.device("cpu")
        self._model = model.to(self._device).eval()
        self.score = lru_cache(maxsize=4096)(self._score)

    def _score(self, database: Database, question: str) -> Scores:
        """The log-odds that a query for the question needs each table and each column."""
        texts = [_table_text(database, t) for t in range(len(database.tables))]
        for table in database.tables:
            texts += [f"{table.natural_name}: {c.natural_name}" for c in table.columns]
        scores = self._logits(question, texts)
        tables, rest = scores[: len(database.tables)], scores[len(database.tables) :]
        columns = []
        for table in database.tables:
            columns.append(rest[: len(table.columns)])
            rest = rest[len(table.columns) :]
        return Scores(tables, columns)

    def _logits(self, question: str, texts: Sequence[str]) -> list[float]:
        scores: list[float] = []
        limit = min(self._tokenizer.model_max_length, LONGEST_PAIR)
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            batch = self._tokenizer(
                [question] * len(part),
                part,
                padding=True,
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            ).to(self._device)
            with torch.no_grad():
                logits = self._model(**batch).logits.float()
            values = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
            scores += values.tolist()
        return scores


def _table_text(database: Database, number: int) -> str:
    table = database.tables[number]
    return f"{table.natural_name}: {', '.join(column.natural_name for column in table.columns)}"
