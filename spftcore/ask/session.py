"""What a user has asked of one database so far, and how the next question is answered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from spftcore.databases import Database
from spftcore.inference.answering import Answered, Answerer, Question
from spftcore.verify import Executor, Status

NO_ANSWER = "no_answer"  # the status of a question that the model wrote no SQL for


@dataclass(frozen=True, slots=True)
class Reply:
    """A question, or the user's own SQL, with its result.

    Attributes:
        question: empty for the user's own SQL.
        sql: what was run; empty when there was nothing to run.
        status: how it ended (`Status`, lower case), or `no_answer`.
        columns, rows: the result, all of it.
        message: why there is no result; empty when there is one.
        seconds: of wall-clock, the model's included.
        answered: how the model came to the SQL; None for the user's own.
    """

    question: str
    sql: str
    status: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    message: str
    seconds: float
    answered: Answered | None = None

    @property
    def ran(self) -> bool:
        """Whether there is a result, be it empty."""
        return self.status in ("ok", "empty")


class Session:
    """Questions to one database.

    Attributes:
        database: what is asked.
        evidence: what else the model is told with each question.
        last: the last reply; None before the first.
    """

    def __init__(self, database: Database, answerer: Answerer, executor: Executor) -> None:
        self.database = database
        self.answerer = answerer
        self.evidence = ""
        self.last: Reply | None = None
        self._executor = executor
        self._asked = 0

    def ask(self, question: str) -> Reply:
        """Answers a question.

        Raises:
            KeyboardInterrupt: Ctrl-C; the session goes on as if nothing had been asked.
        """
        start = time.perf_counter()
        self._asked += 1
        asked = Question(str(self._asked), self.database.id, question, self.evidence)
        (answered,) = self.answerer.answers([asked])
        if not answered.sql:
            self.last = Reply(
                question,
                "",
                NO_ANSWER,
                (),
                (),
                answered.cause,
                time.perf_counter() - start,
                answered,
            )
            return self.last
        return self._fetch(question, answered.sql, start, answered)

    def run(self, sql: str) -> Reply:
        """Runs the user's own query, under the same limits. Raises KeyboardInterrupt."""
        return self._fetch("", sql, time.perf_counter(), None)

    def _fetch(self, question: str, sql: str, start: float, answered: Answered | None) -> Reply:
        found = self._executor.fetch(self.database.path, sql)
        self.last = Reply(
            question,
            sql,
            found.status.name.lower(),
            tuple(found.columns),
            tuple(found.rows),
            "" if found.ran else found.message or _SAID[found.status],
            time.perf_counter() - start,
            answered,
        )
        return self.last


_SAID = {status: status.name.lower().replace("_", " ") for status in Status}
