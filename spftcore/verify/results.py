"""What a batch returns: NumPy columns for counting, single outcomes and judgements on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from spftcore.verify.outcomes import Judgement, Outcome, Status, Verdict

_STATUSES = tuple(Status)
_VERDICTS = tuple(Verdict)

# By the numbers of `Reason` in csrc/types.h.
_REASONS = (
    "same result",
    "gold did not run: {gold.message}",
    "candidate undecided: {candidate.message}",
    "candidate did not run: {candidate.message}",
    "number of columns differs: {candidate.columns}, gold {gold.columns}",
    "number of rows differs: {candidate.rows}, gold {gold.rows}",
    "rows differ",
    "order of rows differs",
    "too many column orders to try",
)


class Outcomes(Sequence[Outcome]):
    """Executions in the order asked for: `outcomes[i]` is an `Outcome`, the columns are arrays.

    Columns (length n, one entry per query): `status` uint8 (`Status`), `rows` int64, `columns`
    int32, `steps` int64, `seconds` float64, `all_null` bool, `fingerprint` bytes of 32 digits
    (empty when the query did not run).

    Args:
        distinct: columns of the distinct executions and their messages by position.
        index: [n] the execution that answers each query.
    """

    def __init__(self, distinct: Mapping[str, Any], index: NDArray[np.uint32]) -> None:
        self._distinct = distinct
        self._index = index
        self._made: dict[int, Outcome] = {}

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self._distinct[name]
        return column[self._index]

    @property
    def status(self) -> NDArray[np.uint8]:
        """How each execution ended, as numbers of `Status`."""
        return self._column("status")

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each result."""
        return self._column("rows")

    @property
    def columns(self) -> NDArray[np.int32]:
        """Columns of each result."""
        return self._column("columns")

    @property
    def steps(self) -> NDArray[np.int64]:
        """Virtual-machine steps of each execution."""
        return self._column("steps")

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Wall-clock seconds of each execution."""
        return self._column("seconds")

    @property
    def all_null(self) -> NDArray[np.bool_]:
        """Results with rows but nothing in them except NULL."""
        return self._column("all_null")

    @property
    def fingerprint(self) -> NDArray[np.bytes_]:
        """Names of the bags of rows, 32 hexadecimal digits each; empty where nothing ran."""
        digits = np.ascontiguousarray(self._distinct["fingerprint"]).view("S32").reshape(-1)
        return digits[self._index]

    @property
    def ran(self) -> NDArray[np.bool_]:
        """Executions that ended by themselves, with rows or without."""
        return self.status <= Status.EMPTY

    def _outcome(self, number: int) -> Outcome:
        made = self._made.get(number)
        if made is None:
            c = self._distinct
            made = self._made[number] = Outcome(
                status=_STATUSES[c["status"][number]],
                message=c["messages"].get(number, ""),
                rows=int(c["rows"][number]),
                columns=int(c["columns"][number]),
                steps=int(c["steps"][number]),
                seconds=float(c["seconds"][number]),
                fingerprint=bytes(c["fingerprint"][number]).rstrip(b"\0").decode("ascii"),
                all_null=bool(c["all_null"][number]),
            )
        return made

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, at: int) -> Outcome: ...
    @overload
    def __getitem__(self, at: slice) -> list[Outcome]: ...
    def __getitem__(self, at: int | slice) -> Outcome | list[Outcome]:
        if isinstance(at, slice):
            return [self._outcome(int(i)) for i in self._index[at]]
        return self._outcome(int(self._index[at]))

    def __iter__(self) -> Iterator[Outcome]:
        return (self._outcome(i) for i in self._index.tolist())


class Verdicts(Sequence[list[Judgement]]):
    """Judgements, item by item: `verdicts[i]` is a list with one `Judgement` per candidate.

    Columns over all candidates, item after item (item i holds `offsets[i]:offsets[i + 1]`):
    `verdict` uint8 (`Verdict`), `score` float32, `both_empty` bool, `candidates` and `golds` the
    two executions behind each verdict as `Outcomes`.

    Args:
        columns: what the executor returned.
        databases: per item, the files it was judged on.
    """

    def __init__(self, columns: Mapping[str, Any], databases: Sequence[Sequence[Any]]) -> None:
        every, member = _deciding(columns, [len(files) for files in databases])
        self._databases = databases
        self._member = member
        self._reason = every["reason"]
        self.offsets: NDArray[np.int64] = every["offsets"]
        self.verdict: NDArray[np.uint8] = every["verdict"]
        self.score: NDArray[np.float32] = every["score"]
        self.both_empty: NDArray[np.bool_] = every["both_empty"]
        self.candidates = Outcomes(columns["outcomes"], every["candidate"])
        self.golds = Outcomes(columns["outcomes"], every["gold"])

    @property
    def right(self) -> NDArray[np.bool_]:
        """Candidates judged right."""
        return self.verdict == Verdict.RIGHT

    def _item(self, item: int) -> list[Judgement]:
        judgements = []
        for k in range(self.offsets[item], self.offsets[item + 1]):
            gold = self.golds[k]
            candidate = self.candidates[k]
            judgements.append(
                Judgement(
                    verdict=_VERDICTS[self.verdict[k]],
                    candidate=candidate,
                    gold=gold,
                    both_empty=bool(self.both_empty[k]),
                    reason=_REASONS[self._reason[k]].format(gold=gold, candidate=candidate),
                    score=float(self.score[k]),
                    database=os.fsdecode(self._databases[item][self._member[k]]),
                )
            )
        return judgements

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, at: int) -> list[Judgement]: ...
    @overload
    def __getitem__(self, at: slice) -> list[list[Judgement]]: ...
    def __getitem__(self, at: int | slice) -> list[Judgement] | list[list[Judgement]]:
        if isinstance(at, slice):
            return [self._item(i) for i in range(*at.indices(len(self)))]
        return self._item(range(len(self))[at])


def _deciding(
    columns: Mapping[str, Any], members: Sequence[int]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The judgement that decides for each candidate, of those on the files of its item's family.

    An item on m files was judged as m items in a row. The first file that says WRONG decides;
    without one, the original (the first file) decides when it is unjudged, then any file that
    cannot be read, or whose gold ran and whose candidate is undecided; else the original's RIGHT
    stands. A variant on which the gold itself does not run says nothing.

    Returns:
        The columns with one row per candidate and `gold` per candidate, and the deciding file.
    """
    offsets = columns["offsets"]
    per_file = np.diff(offsets)
    gold = np.repeat(columns["gold"], per_file)
    flat = {name: columns[name] for name in ("verdict", "reason", "score", "both_empty")}
    flat |= {"candidate": columns["candidate"], "gold": gold}
    if all(m == 1 for m in members):
        return flat | {"offsets": offsets}, np.zeros(len(gold), np.int64)

    first = np.concatenate([[0], np.cumsum(members)])
    counts = per_file[first[:-1]]
    picks = np.empty(int(counts.sum()), np.int64)
    member = np.empty_like(picks)
    status = columns["outcomes"]["status"][gold]
    telling = (status <= Status.EMPTY) | (status >= Status.DATABASE_ERROR)
    new_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    for item, m in enumerate(members):
        begin, end = offsets[first[item]], offsets[first[item + 1]]
        rows = np.arange(begin, end).reshape(m, counts[item])
        verdict = flat["verdict"][rows]
        # Rank: a WRONG, an unjudged original, an undecided candidate, the original, the rest.
        rank = np.full(verdict.shape, 4)
        rank[0] = 3
        rank[(verdict == Verdict.UNJUDGED) & telling[rows]] = 2
        rank[0, verdict[0] == Verdict.UNJUDGED] = 1
        rank[verdict == Verdict.WRONG] = 0
        chosen = rank.argmin(axis=0)
        picks[new_offsets[item] : new_offsets[item + 1]] = rows[chosen, np.arange(counts[item])]
        member[new_offsets[item] : new_offsets[item + 1]] = chosen
    return {name: column[picks] for name, column in flat.items()} | {"offsets": new_offsets}, member
