"""What a worker process answers, as bytes: numbers as plain arrays, the rest as JSON.

A worker runs SQL that nobody has checked inside its own process, so its parent believes nothing it
says. No pickle: reading an answer can only ever make numbers and strings. Lengths follow from what
was asked, and every number that Python or NumPy will use as an index is checked against its range.

Layout of an answer: 4 bytes little-endian length of the JSON header, the header, then the arrays
one after another, in the order of `_OUTCOME` (and `_ITEM`, `_CANDIDATE`), little-endian.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spftcore.verify.outcomes import Status, Verdict

# (column, type on the wire, values per row) per outcome, per item and per candidate.
_OUTCOME = (
    ("status", "u1", 1),
    ("rows", "<i8", 1),
    ("columns", "<i4", 1),
    ("steps", "<i8", 1),
    ("seconds", "<f8", 1),
    ("all_null", "u1", 1),
    ("fingerprint", "i1", 32),
)
_ITEM = (("gold", "<u4", 1),)
_CANDIDATE = (
    ("candidate", "<u4", 1),
    ("verdict", "u1", 1),
    ("reason", "u1", 1),
    ("both_empty", "u1", 1),
    ("score", "<f4", 1),
)
# Reasons in csrc/types.h.
_REASONS = 9
_BOOLEAN = ("all_null", "both_empty")
COUNTERS = (
    "queries",
    "executed",
    "duplicates",
    "gold_hits",
    "gold_misses",
    "gold_entries",
    "gold_bytes",
    "connections_opened",
    "connections_reused",
)

Columns = dict[str, Any]
Rows = tuple[int, str, list[str], list[tuple[Any, ...]]]


class Nonsense(Exception):
    """An answer that no worker in good health gives."""


def encode_executed(answer: tuple[Columns, NDArray[Any]], counters: Mapping[str, Any]) -> bytes:
    """Outcomes of distinct queries, one each."""
    outcomes, index = answer
    if len(index) != len(outcomes["status"]):
        raise ValueError("the queries were not distinct")
    header = {"messages": _keyed(outcomes["messages"]), "counters": counters}
    return _join(header, [outcomes[name] for name, _, _ in _OUTCOME])


def encode_verified(answer: Columns, counters: Mapping[str, Any]) -> bytes:
    """Outcomes and judgements."""
    outcomes = answer["outcomes"]
    header = {
        "outcomes": len(outcomes["status"]),
        "messages": _keyed(outcomes["messages"]),
        "counters": counters,
    }
    arrays = [outcomes[name] for name, _, _ in _OUTCOME]
    arrays += [answer[name] for name, _, _ in _ITEM + _CANDIDATE]
    return _join(header, arrays)


def encode_rows(answer: Rows, counters: Mapping[str, Any]) -> bytes:
    """One query's rows; a blob as {"blob": base64}."""
    status, message, names, rows = answer
    cells = [[_cell_out(value) for value in row] for row in rows]
    header = {
        "status": status,
        "message": message,
        "names": names,
        "rows": cells,
        "counters": counters,
    }
    return _join(header, [])


def decode_executed(answer: bytes, queries: int) -> tuple[Columns, Columns]:
    """The outcomes of `queries` queries, and the worker's counters.

    Raises:
        Nonsense: anything is out of its range.
    """
    header, at = _header(answer)
    outcomes, at = _outcomes(answer, at, queries, header)
    return outcomes, _finish(answer, at, header)


def decode_verified(answer: bytes, candidates: Sequence[int]) -> tuple[Columns, Columns]:
    """Outcomes and judgements of items with so many candidates each, and the worker's counters.

    Raises:
        Nonsense: anything is out of its range.
    """
    header, at = _header(answer)
    judged = sum(candidates)
    n = header.get("outcomes")
    if type(n) is not int or not 0 <= n <= len(candidates) + judged:
        raise Nonsense("the number of outcomes is impossible")
    outcomes, at = _outcomes(answer, at, n, header)
    columns, at = _arrays(answer, at, _ITEM, len(candidates))
    per_candidate, at = _arrays(answer, at, _CANDIDATE, judged)
    columns |= per_candidate
    _below(columns["gold"], n)
    _below(columns["candidate"], n)
    _below(columns["verdict"], len(Verdict))
    _below(columns["reason"], _REASONS)
    columns["outcomes"] = outcomes
    return columns, _finish(answer, at, header)


def decode_rows(answer: bytes) -> tuple[Rows, Columns]:
    """One query's rows, and the worker's counters.

    Raises:
        Nonsense: anything is out of its range.
    """
    header, at = _header(answer)
    status, message = header.get("status"), header.get("message")
    names, rows = header.get("names"), header.get("rows")
    if type(status) is not int or not 0 <= status < len(Status) or type(message) is not str:
        raise Nonsense("no status")
    if type(names) is not list or not all(type(name) is str for name in names):
        raise Nonsense("no column names")
    if type(rows) is not list or not all(
        type(row) is list and len(row) == len(names) for row in rows
    ):
        raise Nonsense("no rows")
    table = [tuple(_cell_in(value) for value in row) for row in rows]
    return (status, message, names, table), _finish(answer, at, header)


def _keyed(messages: Mapping[int, str]) -> dict[str, str]:
    return {str(number): message for number, message in messages.items()}


def _join(header: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> bytes:
    text = json.dumps(header).encode("ascii")
    return b"".join([struct.pack("<I", len(text)), text, *(a.tobytes() for a in arrays)])


def _header(answer: bytes) -> tuple[dict[str, Any], int]:
    try:
        (size,) = struct.unpack_from("<I", answer)
        header = json.loads(answer[4 : 4 + size])
    except (struct.error, ValueError, RecursionError) as error:
        raise Nonsense("no header") from error
    if type(header) is not dict:
        raise Nonsense("no header")
    return header, 4 + size


def _arrays(
    answer: bytes, at: int, columns: Sequence[tuple[str, str, int]], rows: int
) -> tuple[Columns, int]:
    found: Columns = {}
    for name, kind, width in columns:
        try:
            array = np.frombuffer(answer, kind, rows * width, at)
        except ValueError as error:
            raise Nonsense("too short") from error
        at += array.nbytes
        if name in _BOOLEAN:
            array = array != 0
        found[name] = array if width == 1 else array.reshape(rows, width)
    return found, at


def _outcomes(answer: bytes, at: int, n: int, header: Mapping[str, Any]) -> tuple[Columns, int]:
    outcomes, at = _arrays(answer, at, _OUTCOME, n)
    _below(outcomes["status"], len(Status))
    if (outcomes["fingerprint"] < 0).any():
        raise Nonsense("a fingerprint is not ASCII")
    messages = header.get("messages")
    if type(messages) is not dict or not all(
        key.isascii() and key.isdigit() and int(key) < n and type(message) is str
        for key, message in messages.items()
    ):
        raise Nonsense("no messages")
    outcomes["messages"] = {int(key): message for key, message in messages.items()}
    return outcomes, at


def _finish(answer: bytes, at: int, header: Mapping[str, Any]) -> Columns:
    """The worker's counters, once nothing is left over."""
    counters = header.get("counters")
    if len(answer) != at:
        raise Nonsense("too long")
    if type(counters) is not dict or not all(type(counters.get(n)) is int for n in COUNTERS):
        raise Nonsense("no counters")
    statuses = counters.get("statuses")
    if (
        type(statuses) is not list
        or len(statuses) != len(Status)
        or not all(type(number) is int for number in statuses)
    ):
        raise Nonsense("no counters of statuses")
    return counters


def _below(values: NDArray[Any], bound: int) -> None:
    if values.size and int(values.max()) >= bound:
        raise Nonsense("a number is out of range")


def _cell_out(value: Any) -> Any:
    return {"blob": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _cell_in(value: Any) -> Any:
    if type(value) is dict:
        try:
            return base64.b64decode(value["blob"], validate=True)
        except (KeyError, ValueError, TypeError) as error:
            raise Nonsense("not a value") from error
    if type(value) not in (str, int, float, type(None)):
        raise Nonsense("not a value")
    return value
