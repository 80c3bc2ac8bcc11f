"""Reads gold queries and predictions in the field's file formats, one record at a time.

Pairs: JSONL or a JSON list with our keys or Spider's and BIRD's, or `SQL<TAB>database` lines.
Predictions: JSONL or a JSON list of records or of texts; BIRD's JSON object; one SQL a line, with
or without `<TAB>database` as Spider has it. Files of lines are never held whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spftcore.errors import SpftError
from spftcore.record_files import (
    DATABASE,
    ID,
    OWN,
    SQL,
    capital,
    file_format,
    lines,
    parsed,
    records,
    text_of,
)

_BIRD_SEPARATOR = "\t----- bird -----\t"


@dataclass(frozen=True, slots=True)
class Item:
    """A gold query and what is to be judged against it.

    Attributes:
        id: the record's own, else its number in the file, from 1.
        database: id of the database.
        gold: SQL text.
        answers: the prediction, then further samples; empty when the golds alone are judged.
        place: line or record number and file, for messages.
    """

    id: str
    database: str
    gold: str
    answers: tuple[str, ...]
    place: str


@dataclass(frozen=True, slots=True)
class _Gold:
    id: str | None
    database: str
    sql: str
    own: tuple[str, ...] | None
    number: int
    place: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """One record of a file of predictions.

    Attributes:
        id: the record's own; None where the file has none.
        database: id of the database; empty where the file does not say.
        sql: the prediction; None where there are only samples.
        samples: further answers, or all of them.
        place: line or record number and file, for messages.
    """

    id: str | None
    database: str
    sql: str | None
    samples: tuple[str, ...]
    place: str

    @property
    def answers(self) -> tuple[str, ...]:
        """The prediction, then the samples; at least one."""
        return self.samples if self.sql is None else (self.sql, *self.samples)

    @property
    def blank(self) -> bool:
        """No answer holds anything."""
        return not any(answer.strip() for answer in self.answers)


def read_items(pairs: Path, predictions: Path | None, databases: Collection[str]) -> Iterator[Item]:
    """Pairs with their answers, in the order of the pairs.

    Predictions with ids are matched by id when the pairs have ids too, otherwise by position.
    Predictions by id that come in another order are kept in memory until their pair comes.

    Args:
        pairs: file of golds, with or without answers of their own.
        predictions: file of predictions, which replace the pairs' own answers; None when there is
            none.
        databases: known database ids, by which `SQL<TAB>database` lines are recognised.

    Raises:
        SpftError: a file is missing, empty or malformed (the line is named), a prediction is
            missing, left over, given twice or for another database than its pair's.
    """
    golds = _read_golds(pairs)
    if predictions is not None:
        # The first gold's database may be one of which there is no file.
        first = next(golds, None)
        if first is not None:
            golds, databases = chain((first,), golds), {first.database, *databases}
        return _matched(golds, read_predictions(predictions, databases), predictions)
    return _own_answers(golds)


def _own_answers(golds: Iterator[_Gold]) -> Iterator[Item]:
    """Golds with the answers their records hold: all of them have some, or none has."""
    first: _Gold | None = None
    for gold in golds:
        first = first or gold
        if (gold.own is None) != (first.own is None):
            has, lacks = (gold, first) if first.own is None else (first, gold)
            raise SpftError(
                f"{capital(lacks.place)} has no prediction, while {has.place} has. Give every "
                "pair one (an empty text if there is no answer), or put them in a file for "
                "--predictions."
            )
        yield _item(gold, gold.own or ())


def _matched(
    golds: Iterator[_Gold], predictions: Iterator[Prediction], path: Path
) -> Iterator[Item]:
    waiting: dict[str, Prediction] = {}
    by_id: bool | None = None
    for gold in golds:
        prediction = None
        if gold.id is not None and gold.id in waiting:
            prediction = waiting.pop(gold.id)
        while prediction is None:
            following = next(predictions, None)
            if following is None:
                how = f"the id '{gold.id}'" if by_id else f"number {gold.number}"
                raise SpftError(
                    f"{path} holds no prediction for {gold.place}: it has none with {how}. "
                    "Give one prediction for every pair (an empty text if there is no answer)."
                )
            if by_id is None:
                by_id = gold.id is not None and following.id is not None
            if not by_id or following.id == gold.id:
                prediction = following
            elif following.id is None:
                raise SpftError(
                    f"{capital(following.place)} has no id, while those before it have one."
                )
            elif following.id in waiting:
                raise SpftError(
                    f"{capital(following.place)} has the id '{following.id}', as "
                    f"{waiting[following.id].place} has. Give several answers to one "
                    "question as its 'samples'."
                )
            else:
                waiting[following.id] = following
        if prediction.database not in ("", gold.database):
            raise SpftError(
                f"{capital(prediction.place)} is for the database '{prediction.database}', but "
                f"its pair ({gold.place}) is on '{gold.database}'. Check that both files are of "
                "the same questions in the same order."
            )
        yield _item(gold, prediction.answers)
    left = next((p for p in chain(waiting.values(), predictions) if by_id or not p.blank), None)
    if left is not None:
        raise SpftError(
            f"{capital(left.place)} has no pair, or its pair has another prediction. Check that "
            "both files are of the same questions, and that no id comes twice."
        )


def _item(gold: _Gold, answers: tuple[str, ...]) -> Item:
    identifier = str(gold.number) if gold.id is None else gold.id
    return Item(identifier, gold.database, gold.sql, answers, gold.place)


# -- pairs --------------------------------------------------------------------------------------


def _read_golds(path: Path) -> Iterator[_Gold]:
    what = "pairs file"
    form = file_format(path, what)
    if form == "text":
        for number, line in lines(path, what):
            sql, tab, database = line.rpartition("\t")
            if line.strip():
                if not tab or not sql.strip() or not database.strip():
                    raise SpftError(
                        f"Line {number} of {path} is neither a JSON object nor "
                        "'SQL<TAB>database id'."
                    )
                place = f"line {number} of {path}"
                yield _Gold(None, database.strip(), sql.strip(), None, number, place)
        return
    for number, (place, record) in enumerate(records(path, what, form), 1):
        if not isinstance(record, dict):
            raise SpftError(f"{capital(place)} is not a JSON object.")
        texts = text_of(record, DATABASE) or "", text_of(record, SQL) or ""
        for name, value, keys in zip(("database", "gold SQL"), texts, (DATABASE, SQL), strict=True):
            if not value.strip():
                accepted = " or ".join(repr(key) for key in keys)
                raise SpftError(f"{capital(place)} has no {name} (key {accepted}).")
        own = None
        for key in OWN:
            if own is None and key in record:
                own = _answers(record[key], place)
        yield _Gold(text_of(record, ID), *texts, own, number, place)


def _answers(value: Any, place: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(one is None or isinstance(one, str) for one in values):
        raise SpftError(
            f"The prediction in {place} is not a SQL text or a list of such; put an empty text "
            "where there is no answer."
        )
    return tuple(one or "" for one in values)


# -- predictions --------------------------------------------------------------------------------


def read_predictions(path: Path, databases: Collection[str]) -> Iterator[Prediction]:
    """The records of a file of predictions, in its order.

    Args:
        path: the file.
        databases: known database ids, by which `SQL<TAB>database` lines are recognised.

    Raises:
        SpftError: the file is missing, empty or malformed; the line is named.
    """
    what = "predictions file"
    form = file_format(path, what, one_object=True)
    if form == "text":
        yield from _text_predictions(path, what, databases)
    elif form == "object":
        yield from _bird_predictions(path, what)
    else:
        for place, record in records(path, what, form):
            if isinstance(record, str) or record is None:
                yield Prediction(None, "", record or "", (), place)
                continue
            if not isinstance(record, dict):
                raise SpftError(f"{capital(place)} is neither a JSON object nor a SQL text.")
            # A record that holds gold and prediction has the gold under the pair's key.
            key = next((key for key in (*OWN, *SQL) if key in record), None)
            if key is None and "samples" not in record:
                raise SpftError(f"{capital(place)} has no SQL (key 'sql', or 'samples').")
            sql: str | None = None
            samples: tuple[str, ...] = ()
            if key is not None:
                samples = _answers(record[key], place)
                if not isinstance(record[key], list):
                    sql, samples = samples[0], ()
            if record.get("samples"):
                samples += _answers(record["samples"], place)
            if sql is None and not samples:
                raise SpftError(f"{capital(place)} has no SQL (key 'sql', or 'samples').")
            database = text_of(record, DATABASE) or ""
            yield Prediction(text_of(record, ID), database, sql, samples, place)


def _text_predictions(path: Path, what: str, databases: Collection[str]) -> Iterator[Prediction]:
    """One SQL a line; an empty line is an empty answer. The first line that is not empty decides
    whether lines end with `<TAB>database`: a tab may also be part of the SQL."""
    with_database: bool | None = None
    for number, line in lines(path, what):
        place = f"line {number} of {path}"
        if not line.strip():
            yield Prediction(None, "", "", (), place)
            continue
        sql, tab, database = line.rpartition("\t")
        if with_database is None:
            with_database = bool(tab) and database.strip() in databases
        if not with_database:
            yield Prediction(None, "", line.strip(), (), place)
        elif tab:
            yield Prediction(None, database.strip(), sql.strip(), (), place)
        else:
            raise SpftError(f"{capital(place)} has no '<TAB>database', as the lines before have.")


def _bird_predictions(path: Path, what: str) -> Iterator[Prediction]:
    """BIRD's object: keys are positions from 0 or question ids; a value that is not a text is an
    empty answer, as for its own evaluator."""
    content = parsed(path, what)
    numbers = [str(i) for i in range(len(content))]
    positions = set(content) == set(numbers)
    for key in numbers if positions else content:
        value = content[key]
        sql, _, database = (value if isinstance(value, str) else "").partition(_BIRD_SEPARATOR)
        place = f"entry '{key}' of {path}"
        yield Prediction(None if positions else key, database.strip(), sql.strip(), (), place)
