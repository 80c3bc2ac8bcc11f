"""One scored question, as every part of the evaluation passes it on and as a file keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from spftcore.errors import SpftError

FILE = "scores.jsonl"  # in an evaluation's folder


@dataclass(frozen=True, slots=True)
class Scored:
    """A question with its answer and everything that was found about it.

    Attributes:
        id: of the question within its benchmark.
        database: id of the database.
        question, evidence: what was asked.
        gold: the benchmark's query.
        sql: the answer that is scored.
        samples: all answers that were drawn, where there is more than one.
        hardness: Spider's class of the gold: easy, medium, hard or extra.
        difficulty: the benchmark's own class; empty where it has none.
        clauses: of the gold: where, group by, having, order by, limit, join, nested, set
            operation, …
        joins: joins of the gold.
        excluded: why the question counts in no score; empty when it does.
        status: how the answer's execution ended (`Status`, lower case).
        message: SQLite's message where it did not run.
        unstable: why the gold's result hangs on more than the data; empty when it does not.
        scores: by metric: `bag`, `spider`, `bird`, `ts` as 0 or 1, `soft_f1`, `ves`, `r_ves`, …
            A metric that could not be judged on this question is left out.
        mistakes: classes of error of a wrong answer, the most telling first.
        near_miss: right on the first database and wrong on its family.
        seconds: wall-clock of producing the answer, where it is known.
    """

    id: str
    database: str
    question: str
    gold: str
    sql: str
    evidence: str = ""
    samples: tuple[str, ...] = ()
    hardness: str = ""
    difficulty: str = ""
    clauses: tuple[str, ...] = ()
    joins: int = 0
    excluded: str = ""
    status: str = ""
    message: str = ""
    unstable: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    mistakes: tuple[str, ...] = ()
    near_miss: bool = False
    seconds: float | None = None


_DEFAULTS = {f.name: f.default for f in fields(Scored)}
_TEXTS = tuple(f.name for f in fields(Scored) if f.type == "str")
_LISTS = tuple(f.name for f in fields(Scored) if f.type == "tuple[str, ...]")


def write_scores(path: Path, scored: Iterable[Scored]) -> None:
    """Writes one JSON object a line; empty fields are left out. The file appears when it is
    complete."""
    partial = path.with_name(path.name + ".partial")
    # Half a surrogate, which a JSON file of predictions can hold, is written as its escape.
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for one in scored:
            values = ((name, getattr(one, name)) for name in _DEFAULTS)
            record = {k: v for k, v in values if v not in (_DEFAULTS[k], {}, ())}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    partial.replace(path)


def read_scores(path: Path) -> list[Scored]:
    """Reads what `write_scores` wrote.

    Raises:
        SpftError: the file is missing, or is not of this form (the line is named), or two records
            have one id.
    """
    scored = []
    places: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                place = f"line {number} of {path}"
                one = _scored(line, place)
                if one.id in places:
                    raise SpftError(
                        f"The record in {place} has the id '{one.id}', as {places[one.id]} has. "
                        "Keep one of them: each question is scored once."
                    )
                places[one.id] = place
                scored.append(one)
    except OSError as error:
        raise SpftError(f"Cannot read the scores {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise SpftError(f"{path} is not a file of scores: {error}.") from None
    return scored


def _scored(line: str, place: str) -> Scored:
    try:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(line).items()
        }
        one = Scored(**values)
        cause = _wrong(one)
    except (AttributeError, TypeError, ValueError) as error:
        cause = str(error)
    except RecursionError:
        cause = "it is nested too deeply"
    if cause:
        raise SpftError(
            f"The record in {place} is not a scored question: {cause}. Name a folder or a file "
            "that `python -m spftcore.evaluate` has written."
        )
    return one


def _wrong(one: Scored) -> str:
    """What is wrong with a record from a file; empty where nothing is."""
    for name in _TEXTS:
        if not isinstance(getattr(one, name), str):
            return f"'{name}' is no text"
    for name in _LISTS:
        value = getattr(one, name)
        if not (isinstance(value, tuple) and all(isinstance(text, str) for text in value)):
            return f"'{name}' is no list of texts"
    if not isinstance(one.joins, int):
        return "'joins' is no whole number"
    if not isinstance(one.scores, dict) or not all(
        isinstance(value, int | float) and isfinite(value) for value in one.scores.values()
    ):
        return "'scores' are not finite numbers by name"
    return ""
