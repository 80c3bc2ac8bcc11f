"""Question-SQL pairs: reading the field's file formats, and splitting without leakage."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from spftcore.errors import SpftError


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with its SQL.

    Attributes:
        id: unique within a run.
        database: id of the database (the file's stem).
        evidence: BIRD's hint, if any.
        split: train, dev, test, feedback or ranking.
        source: seed, synthesized or benchmark.
        template: id of the template the SQL was filled from, if any.
        checks: what was verified, by name.
    """

    id: str
    database: str
    question: str
    sql: str
    evidence: str = ""
    split: str = ""
    source: str = ""
    template: str = ""
    checks: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({k: v for k, v in asdict(self).items() if v}, ensure_ascii=False)


# Official keys of Spider (db_id, query), BIRD (db_id, SQL, question_id) and Spider-DK/-Syn.
_KEYS = {
    "id": ("id", "question_id"),
    "database": ("database", "db_id"),
    "question": ("question", "SpiderSynQuestion"),
    "sql": ("sql", "query", "SQL"),
    "evidence": ("evidence",),
}


def _text(record: dict[str, Any], name: str) -> str:
    for key in _KEYS[name]:
        value = record.get(key)
        if isinstance(value, str | int):
            return str(value)
    return ""


def read_pairs(path: Path, *, source: str, split: str) -> list[Pair]:
    """Reads pairs from JSONL (one object a line) or a JSON list; Spider's and BIRD's keys too.

    Raises:
        SpftError: the file is missing, empty or malformed, or a record lacks a field (the record
            is named by its position).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpftError(f"Cannot read the pairs file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SpftError(f"The pairs file {path} is not UTF-8 text. Convert it first.") from None
    records: list[Any] = []
    number = 0
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            # Not splitlines: JSON strings may hold other line separators than the line feed.
            for line in text.split("\n"):
                number += 1
                if line.strip():
                    records.append(json.loads(line))
    except json.JSONDecodeError as error:
        where = f" (line {number} of the file)" if number else ""
        raise SpftError(
            f"The pairs file {path} is neither a JSON list nor one JSON object a line: "
            f"{error}{where}."
        ) from None
    if not records:
        raise SpftError(f"The pairs file {path} is empty. It needs at least one pair.")
    pairs = []
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise SpftError(f"Record {number} of {path} is not a JSON object.")
        values = {name: _text(record, name) for name in _KEYS}
        values["sql"] = values["sql"].rstrip("; \t\r\n").lstrip()
        for name in ("database", "question", "sql"):
            # An empty query is like one that does not run: it is left out and counted later.
            empty_query = name == "sql" and any(isinstance(record.get(k), str) for k in _KEYS[name])
            if not values[name].strip() and not empty_query:
                accepted = " or ".join(repr(key) for key in _KEYS[name])
                raise SpftError(f"Record {number} of {path} has no {name} (key {accepted}).")
        identifier = f"{split}-{path.stem}-{values['id'] or number}"
        pairs.append(
            Pair(
                id=identifier,
                database=values["database"],
                question=" ".join(values["question"].split()),
                sql=values["sql"],
                evidence=values["evidence"].strip(),
                split=split,
                source=source,
                template=str(record.get("template", "")),
            )
        )
    seen: dict[str, int] = {}
    for number, pair in enumerate(pairs, 1):
        if pair.id in seen:
            raise SpftError(
                f"Records {seen[pair.id]} and {number} of {path} have the same id "
                f"'{pair.id}'. Ids must be unique."
            )
        seen[pair.id] = number
    return pairs


def question_key(question: str) -> str:
    """The question without case, punctuation, digits' grouping and stop words: near duplicates
    share it."""
    words = re.findall(r"[^\W_]+", question.lower())
    return " ".join(w for w in words if w not in _STOP_WORDS)


_STOP_WORDS = {
    "a",
    "an",
    "the",
    "of",
    "for",
    "in",
    "is",
    "are",
    "do",
    "does",
    "we",
    "have",
    "there",
}
_STOP_WORDS |= {"what", "which", "show", "me"}


def split_pairs(
    pairs: Sequence[Pair], fractions: dict[str, float], canonical: Callable[[Pair], str], seed: int
) -> list[Pair]:
    """Assigns splits so that no canonical SQL and no near-identical question is on both sides.

    Pairs that share either are kept together (connected components), and whole components go to
    the splits until each has its share.

    Args:
        pairs: pairs to split.
        fractions: share of each split besides `train`, which takes the rest.
        canonical: canonical SQL of a pair, used as the key of equal queries.
        seed: decides which components go where.

    Returns:
        The pairs, in their order, with `split` set.
    """
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str, str], int] = {}
    for i, pair in enumerate(pairs):
        for key in (
            ("sql", pair.database, canonical(pair)),
            ("question", pair.database, question_key(pair.question)),
        ):
            parent[root(i)] = root(first.setdefault(key, i))
    components: dict[int, list[int]] = {}
    for i in range(len(pairs)):
        components.setdefault(root(i), []).append(i)
    order = list(components.values())
    random.Random(seed).shuffle(order)
    splits = ["train"] * len(pairs)
    for name, fraction in fractions.items():
        wanted = round(fraction * len(pairs))
        rest = []
        while order:
            component = order.pop()
            if len(component) > wanted:  # would overshoot: the rest trains
                rest.append(component)
                continue
            wanted -= len(component)
            for i in component:
                splits[i] = name
        order = rest
    return [replace(pair, split=split) for pair, split in zip(pairs, splits, strict=True)]
