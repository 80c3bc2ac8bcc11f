"""Predictions from elsewhere: matched with a benchmark's questions, cleaned by stated rules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spftcore.benchmarks import Benchmark, Question
from spftcore.errors import SpftError
from spftcore.record_files import capital
from spftcore.verify.records import Prediction, read_predictions

SHOWN = 5  # ids named in a message

_FENCE = re.compile(r"```[ \t]*(?:(?:sqlite3?|sql)(?=\s|\Z))?(.*?)(?:```|\Z)", re.I | re.S)
_PREFIX = re.compile(r"\s*(?:sql(?:ite)?(?:\s*query)?|query|answer)\s*:\s*", re.I)
_FENCE_LINE = re.compile(r"\s*```[ \t]*\w*\s*\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system answered to one question.

    Attributes:
        sql: the answer that is scored; empty where there is none.
        samples: all answers that were drawn, where there is more than one.
        seconds: wall-clock of producing it, where it is known.
    """

    sql: str
    samples: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to all questions of a benchmark, in its order.

    Attributes:
        answers: one per question.
        stripped: how many texts lost what: `fence`, `prefix`, `blank line`.
    """

    answers: tuple[Answer, ...]
    stripped: dict[str, int]


def clean(text: str) -> tuple[str, list[str]]:
    """The SQL in what a model wrote, and what was stripped from it.

    1. A Markdown fence: what stands inside the first ``` block is the answer, with or without the
       language `sql` or `sqlite`; the closing fence may be missing.
    2. A prefix `SQL:`, `SQLite:`, `SQL query:`, `Query:` or `Answer:` in any case.
    3. White space around it, which is not counted.
    """
    stripped = []
    fenced = _FENCE.search(text)
    if fenced is not None:
        text = fenced.group(1)
        stripped.append("fence")
    prefix = _PREFIX.match(text)
    if prefix is not None:
        text = text[prefix.end() :]
        stripped.append("prefix")
    return text.strip(), stripped


def read_answers(path: Path, benchmark: Benchmark) -> Answers:
    """Reads a file of predictions and matches it with the questions.

    Predictions with ids are matched by id where the questions have ids too, otherwise by position;
    ids that are the numbers from 0 or from 1 are positions.
    Of a file of plain lines, blank lines are empty answers when there are as many lines as
    questions; otherwise they are dropped and counted, as are lines that hold nothing but a fence.

    Raises:
        SpftError: the file is malformed, a question has no prediction or several, a prediction has
            no question, or is for another database than its question's.
    """
    questions = benchmark.questions
    # Also those whose files are missing: the first line may be about one of them.
    known = {question.database for question in questions} | benchmark.databases.keys()
    predictions = list(read_predictions(path, known))
    stripped: Counter[str] = Counter()
    if benchmark.has_ids and any(p.id is not None for p in predictions):
        matched = _by_id(path, questions, predictions)
    else:
        matched = _by_position(path, questions, _numbered(predictions), stripped)
    answers = []
    for question, prediction in zip(questions, matched, strict=True):
        if prediction.database not in ("", question.database):
            raise SpftError(
                f"{capital(prediction.place)} is for the database '{prediction.database}', but its "
                f"question ({question.place}) is on '{question.database}'. Check that both files "
                "are of the same questions in the same order."
            )
        texts = []
        for text in prediction.answers:
            cleaned, what = clean(text)
            texts.append(cleaned)
            stripped.update(what)
        samples = texts if prediction.sql is None else texts[1:]
        answers.append(Answer(texts[0], tuple(samples)))
    return Answers(tuple(answers), dict(stripped))


def _by_id(
    path: Path, questions: Sequence[Question], predictions: Sequence[Prediction]
) -> list[Prediction]:
    found: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.id is None:
            raise SpftError(f"{capital(prediction.place)} has no id, while others have one.")
        if prediction.id in found:
            raise SpftError(
                f"{capital(prediction.place)} has the id '{prediction.id}', as "
                f"{found[prediction.id].place} has. Give several answers to one question as its "
                "'samples'."
            )
        found[prediction.id] = prediction
    missing = [q for q in questions if q.id not in found]
    if missing:
        raise SpftError(
            f"{path} has no prediction for {len(missing):,} of {len(questions):,} questions: "
            f"{_named([f'{q.id!r} ({q.place})' for q in missing])}. Give one for each, an empty "
            "text where there is no answer."
        )
    known = {q.id for q in questions}
    left = [p for p in predictions if p.id not in known]
    if left:
        raise SpftError(
            f"{path} has {len(left):,} predictions that no question has the id of: "
            f"{_named([f'{p.id!r} ({p.place})' for p in left])}. Check that both files are of the "
            "same benchmark."
        )
    return [found[q.id] for q in questions]


def _numbered(predictions: list[Prediction]) -> list[Prediction]:
    """In the order of their ids, where these are the numbers from 0 or from 1."""
    by_number = {prediction.id: prediction for prediction in predictions}
    for start in (0, 1):
        numbers = [str(number) for number in range(start, start + len(predictions))]
        if by_number.keys() == set(numbers):
            return [by_number[number] for number in numbers]
    return predictions


def _by_position(
    path: Path,
    questions: Sequence[Question],
    predictions: list[Prediction],
    stripped: Counter[str],
) -> list[Prediction]:
    while len(predictions) > len(questions) and predictions[-1].blank:
        predictions = predictions[:-1]
    if len(predictions) != len(questions):
        kept = [p for p in predictions if not p.blank and not _FENCE_LINE.match(p.answers[0])]
        if len(kept) == len(questions):
            stripped["blank line"] += len(predictions) - len(kept)
            return kept
    if len(predictions) < len(questions):
        first = questions[len(predictions)]
        raise SpftError(
            f"{path} holds {len(predictions):,} predictions for {len(questions):,} questions: "
            f"there is none for question {first.number} ({first.place}) and those after it, if "
            "they are in the same order. Give one for each, an empty line where there is no answer."
        )
    if len(predictions) > len(questions):
        raise SpftError(
            f"{path} holds {len(predictions):,} predictions for {len(questions):,} questions: "
            f"{predictions[len(questions)].place} and what follows has no question. Check that "
            "both files are of the same questions and that each answer is on one line."
        )
    return predictions


def _named(places: Sequence[str]) -> str:
    more = len(places) - SHOWN
    return ", ".join(places[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
