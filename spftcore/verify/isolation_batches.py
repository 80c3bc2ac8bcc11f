"""A batch for worker processes: cut into chunks, mended after deaths, put together again.

Which worker gets what. The items lie in one list, database after database and, within one, gold
after gold. Each worker has its own stretch of the list and takes from its front; a worker whose
stretch is empty takes from the back of the longest one left. So a worker sees few databases, the
golds of the next batch come to the worker that has them in its cache, and no popular database or
slow query keeps the others idle.
"""

from __future__ import annotations

import itertools
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from spftcore.errors import SpftError
from spftcore.verify.answers import (
    Columns,
    Nonsense,
    Rows,
    decode_executed,
    decode_rows,
    decode_verified,
)
from spftcore.verify.isolation_process import Death
from spftcore.verify.outcomes import Status

Preset = tuple[bytes, int, str]  # digest, status, message
Poll = Callable[[int, int], Any]
Kind = Literal["execute", "verify", "rows"]

# A round trip costs some 0.3 ms: as long as ten to thirty short queries.
_CHUNK_QUERIES = 64
_CHUNK_CHARACTERS = 4 << 20
_LARGEST_ROWS_ANSWER = 2 << 30


@dataclass
class Chunk:
    """Items that one worker runs in one go.

    Attributes:
        units: positions in the batch's list of items.
        queries: texts in them, repeats included.
        presets: queries of them that killed a worker.
        deaths: deaths without a culprit.
    """

    units: list[int]
    queries: int
    presets: list[Preset] = field(default_factory=list)
    deaths: int = 0


class Batch:
    """What is to run, what is under way, what is done. Guarded by the pool's lock, but for `over`.

    Args:
        kind: `execute`, `verify` or `rows`.
        argument: the number of the comparison of `verify`; 0 for the others.
        units: (database, sql) or (database, gold, candidates), with paths as bytes.
        presets: queries settled beforehand.
        workers: how many share it.
        digest: `query_digest` of the C++ module.
    """

    def __init__(
        self,
        kind: Kind,
        argument: int,
        units: Sequence[tuple[Any, ...]],
        presets: Sequence[Preset],
        workers: int,
        digest: Callable[[bytes, str, int], bytes],
    ) -> None:
        self.kind = kind
        self.argument = argument
        self.units = units
        self.over = threading.Event()
        self.cancelled = False
        self.error: SpftError | None = None
        self.total = sum(map(_queries, units))
        self._presets = list(presets)
        self._digest = digest
        self._again: list[Chunk] = []
        self._left = len(units)
        self._done = 0
        self.finished: list[tuple[Chunk, Any]] = []
        groups: dict[Any, dict[Any, list[int]]] = {}
        for number, unit in enumerate(units):
            groups.setdefault(unit[0], {}).setdefault(unit[1], []).append(number)
        self._order = [n for golds in groups.values() for same in golds.values() for n in same]
        edges = np.linspace(0, len(units), workers + 1).astype(int).tolist()
        self._stretches = [[a, b] for a, b in itertools.pairwise(edges)]
        if not units:
            self.over.set()
        try:
            self._folder: str | None = os.getcwd()
        except OSError:
            self._folder = None

    @property
    def open(self) -> bool:
        """False once nothing is left to take."""
        return not self.over.is_set() and (
            bool(self._again) or any(a < b for a, b in self._stretches)
        )

    def take(self, worker: int) -> Chunk:
        """The next chunk for this worker; only when `open`."""
        if self._again:
            return self._again.pop()
        begin, end = self._stretches[worker]
        own = begin < end
        stretch = (
            self._stretches[worker] if own else max(self._stretches, key=lambda s: s[1] - s[0])
        )
        begin, end = stretch
        # Ever smaller towards the end, so that no worker waits long for another's last chunk.
        most = -(-(end - begin) // 4)
        positions = range(begin, end) if own else range(end - 1, begin - 1, -1)
        chunk = Chunk([], 0, list(self._presets))
        characters = 0
        for position in positions[:most]:
            unit = self.units[self._order[position]]
            chunk.units.append(self._order[position])
            chunk.queries += _queries(unit)
            characters += _characters(unit)
            if chunk.queries >= _CHUNK_QUERIES or characters >= _CHUNK_CHARACTERS:
                break
        if own:
            stretch[0] += len(chunk.units)
        else:
            stretch[1] -= len(chunk.units)
        return chunk

    def request(self, chunk: Chunk) -> tuple[Any, ...]:
        """What a worker is sent."""
        units = [self.units[number] for number in chunk.units]
        return (self.kind, self.argument, self._folder, units, chunk.presets)

    def largest_answer(self, request: bytes, chunk: Chunk) -> int:
        """Bytes beyond which an answer is not honest: messages quote the text, escaped."""
        if self.kind == "rows":
            return _LARGEST_ROWS_ANSWER
        return (1 << 20) + 4096 * chunk.queries + 8 * len(request)

    def decode(self, chunk: Chunk, answer: bytes) -> tuple[Any, Columns]:
        """The answer and the worker's counters.

        Raises:
            Nonsense: it is not an answer to this chunk.
        """
        if self.kind == "verify":
            return decode_verified(answer, [len(self.units[n][2]) for n in chunk.units])
        if self.kind == "execute":
            return decode_executed(answer, len(chunk.units))
        return decode_rows(answer)

    def finish(self, chunk: Chunk, answer: Any) -> None:
        """Takes in a decoded answer."""
        self.finished.append((chunk, answer))
        self._left -= len(chunk.units)
        self._done += chunk.queries
        if self._left == 0:
            self.over.set()

    def bury(self, chunk: Chunk, death: Death) -> None:
        """Decides what becomes of a chunk whose worker died.

        A query that ran is settled with its death and the rest is sent again. Where none ran, the
        chunk is halved until one item is alone; after its second death its queries are settled.
        Each death thus settles or halves something, so they end.
        """
        if self.kind == "rows" and (death.query is not None or chunk.deaths > 0):
            self.finish(chunk, (int(death.status), death.message, [], []))
            return
        if death.query is not None:
            known = any(death.query == query for query, _, _ in chunk.presets)
            if known or len(chunk.presets) >= len(self._presets) + chunk.queries:
                self.fail(death)
                return
            chunk.presets.append((death.query, int(death.status), death.message))
            self._again.append(chunk)
        elif len(chunk.units) > 1:
            middle = len(chunk.units) // 2
            for units in (chunk.units[:middle], chunk.units[middle:]):
                queries = sum(_queries(self.units[n]) for n in units)
                self._again.append(Chunk(units, queries, list(chunk.presets), chunk.deaths))
        elif chunk.deaths == 0:
            chunk.deaths = 1
            self._again.append(chunk)
        elif chunk.deaths == 1:
            chunk.deaths = 2
            message = f"the process that was to run it {death.message}, twice"
            chunk.presets += [
                (digest, int(Status.CRASHED), message) for digest in self._digests(chunk.units[0])
            ]
            self._again.append(chunk)
        else:
            self.fail(death)

    def fail(self, death: Death) -> None:
        """Ends the batch: its workers die without any query to blame."""
        database = os.fsdecode(self.units[0][0])
        self.error = SpftError(
            f"A worker process {death.message} again and again, whichever query it was given "
            f"(a database of the batch: {database}). {_quoted(death.log)}"
            "Give it more memory (memory_bytes), and see whether something outside kills processes."
        )
        self.over.set()

    def progress(self, under_way: int) -> tuple[int, int]:
        """Queries done and asked, with those of chunks under way."""
        return min(self._done + under_way, self.total), self.total

    def _digests(self, unit: int) -> list[bytes]:
        database, sql, *candidates = self.units[unit]
        texts = [sql, *(candidates[0] if candidates else ())]
        compare = self.argument if self.kind == "verify" else 0
        return [self._digest(database, text, compare) for text in dict.fromkeys(texts)]


def _queries(unit: tuple[Any, ...]) -> int:
    return 1 + len(unit[2]) if len(unit) == 3 else 1


def _characters(unit: tuple[Any, ...]) -> int:
    return len(unit[1]) + (sum(map(len, unit[2])) if len(unit) == 3 else 0)


def _quoted(log: str) -> str:
    return f"Its last words: {log.splitlines()[-1]} " if log else ""


class Finished(Protocol):
    """A batch of which every item has an answer, whoever ran it."""

    @property
    def units(self) -> Sequence[tuple[Any, ...]]: ...
    @property
    def finished(self) -> Sequence[tuple[Part, Any]]: ...


class Part(Protocol):
    """Items that were answered together."""

    units: list[int]


class Pool(ABC):
    """What pools of workers have in common, wherever these run: the calls of the C++ executor in
    terms of one batch of distinct units."""

    def execute(
        self, queries: Sequence[Any], presets: Sequence[Preset], poll: Poll | None
    ) -> tuple[Columns, NDArray[np.uint32]]:
        """Outcomes of the distinct queries and which of them answers each query."""
        distinct, index = distinct_queries(queries)
        batch = self._run("execute", 0, distinct, presets, poll)
        self._count_duplicates(len(queries) - len(distinct))
        return merge_executed(batch), index

    def verify(
        self,
        items: Sequence[Any],
        compare_number: int,
        presets: Sequence[Preset],
        poll: Poll | None,
    ) -> Columns:
        """Judgements of items, as the C++ executor gives them."""
        units = checked_items(items)
        return merge_verified(self._run("verify", compare_number, units, presets, poll))

    def rows(self, database: Any, sql: str) -> Rows:
        """Status, message, column names and rows of one query."""
        batch = self._run("rows", 0, checked_queries([(database, sql)]), (), None)
        rows: Rows = batch.finished[0][1]
        return rows

    @abstractmethod
    def _run(
        self,
        kind: Kind,
        argument: int,
        units: Sequence[tuple[Any, ...]],
        presets: Sequence[Preset],
        poll: Poll | None,
    ) -> Finished: ...

    @abstractmethod
    def _count_duplicates(self, repeats: int) -> None: ...


def merge_executed(batch: Finished) -> Columns:
    """Columns of outcomes in the order of the batch's items."""
    columns, _ = _outcomes([answer for _, answer in batch.finished])
    place = np.concatenate([chunk.units for chunk, _ in batch.finished] or [[]]).astype(np.int64)
    where = np.empty_like(place)
    where[place] = np.arange(len(place))
    merged = {name: columns[name][where] for name in columns if name != "messages"}
    merged["messages"] = {int(place[n]): text for n, text in columns["messages"].items()}
    return merged


def merge_verified(batch: Finished) -> Columns:
    """Columns of judgements in the order of the batch's items, and of outcomes in any."""
    counts = np.array([len(unit[2]) for unit in batch.units], np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    outcomes, first = _outcomes([answer["outcomes"] for _, answer in batch.finished])
    n = int(offsets[-1])
    merged: Columns = {
        "outcomes": outcomes,
        "offsets": offsets,
        "gold": np.zeros(len(counts), np.uint32),
        "candidate": np.zeros(n, np.uint32),
        "verdict": np.zeros(n, np.uint8),
        "reason": np.zeros(n, np.uint8),
        "both_empty": np.zeros(n, np.bool_),
        "score": np.zeros(n, np.float32),
    }
    for (chunk, answer), base in zip(batch.finished, first, strict=True):
        units = np.array(chunk.units, np.int64)
        sizes = counts[units]
        # Candidate k of the chunk belongs to item i and lies as far from the item's first one as
        # it does in the batch.
        ends = np.cumsum(sizes)
        place = np.repeat(offsets[units] - (ends - sizes), sizes) + np.arange(sizes.sum())
        merged["gold"][units] = answer["gold"] + np.uint32(base)
        merged["candidate"][place] = answer["candidate"] + np.uint32(base)
        for name in ("verdict", "reason", "both_empty", "score"):
            merged[name][place] = answer[name]
    return merged


_EMPTY: tuple[tuple[str, Any, tuple[int, ...]], ...] = (
    ("status", np.uint8, (0,)),
    ("rows", np.int64, (0,)),
    ("columns", np.int32, (0,)),
    ("steps", np.int64, (0,)),
    ("seconds", np.float64, (0,)),
    ("all_null", np.bool_, (0,)),
    ("fingerprint", np.int8, (0, 32)),
)


def _outcomes(parts: Sequence[Columns]) -> tuple[Columns, list[int]]:
    """One after another, and where each begins."""
    first = [0]
    messages: dict[int, str] = {}
    for part in parts:
        for number, message in part["messages"].items():
            messages[first[-1] + number] = message
        first.append(first[-1] + len(part["status"]))
    columns: Columns = {"messages": messages}
    for name, kind, shape in _EMPTY:
        column: NDArray[Any] = np.concatenate([np.empty(shape, kind)] + [p[name] for p in parts])
        columns[name] = column
    return columns, first[:-1]


def checked_queries(queries: Sequence[Any]) -> list[tuple[bytes, str]]:
    """Queries as (path, sql)."""
    paths = _Paths()
    pairs = (_fields(query, 2, "a query must be (database, sql)") for query in queries)
    return [(paths[pair[0]], _text(pair[1])) for pair in pairs]


def distinct_queries(
    queries: Sequence[Any],
) -> tuple[list[tuple[bytes, str]], NDArray[np.uint32]]:
    """The distinct ones among the queries, and which of them answers each query."""
    distinct: dict[tuple[bytes, str], int] = {}
    index = np.empty(len(queries), np.uint32)
    for number, key in enumerate(checked_queries(queries)):
        index[number] = distinct.setdefault(key, len(distinct))
    return list(distinct), index


def checked_items(items: Sequence[Any]) -> list[tuple[bytes, str, list[str]]]:
    """Items as (path, gold, candidates)."""
    paths = _Paths()
    units = []
    # Type by type, without a call for what is as it should be: all workers wait for this loop.
    for item in items:
        database, gold, candidates = (
            item
            if type(item) is tuple and len(item) == 3
            else _fields(item, 3, "an item must be (database, gold, candidates)")
        )
        if type(candidates) is not list:
            if isinstance(candidates, str):
                raise TypeError("candidates must be a sequence of SQL texts, not one text")
            candidates = list(candidates)
        for candidate in candidates:
            if type(candidate) is not str:
                _text(candidate)
        units.append((paths[database], gold if type(gold) is str else _text(gold), candidates))
    return units


class _Paths(dict[Any, bytes]):
    """Paths as the bytes the system sees, once each."""

    def __missing__(self, path: Any) -> bytes:
        raw = os.fsencode(path)
        if b"\0" in raw:
            raise ValueError("embedded null byte")
        self[path] = raw
        return raw


def _fields(value: Any, number: int, message: str) -> Sequence[Any]:
    try:
        fields: Sequence[Any] = value if isinstance(value, tuple | list) else tuple(value)
    except TypeError:
        raise TypeError(message) from None
    if len(fields) != number:
        raise ValueError(message)
    return fields


def _text(sql: Any) -> str:
    if not isinstance(sql, str):
        raise TypeError("SQL must be a str")
    return sql


__all__ = [
    "Batch",
    "Chunk",
    "Finished",
    "Kind",
    "Nonsense",
    "Part",
    "Preset",
    "checked_items",
    "checked_queries",
    "distinct_queries",
    "merge_executed",
    "merge_verified",
]
