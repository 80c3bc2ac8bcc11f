"""What `python -m spftcore.verify` shows and writes: counts by verdict and database, outcomes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spftcore.errors import SpftError
from spftcore.verify.outcomes import Judgement, Outcome, Status, Verdict
from spftcore.verify.records import Item
from spftcore.verify.results import Outcomes, Verdicts

if TYPE_CHECKING:
    from spftcore.verify.stability import Stability

_Kind = TypeVar("_Kind", Status, Verdict)

SHOWN_DATABASES = 10
SHOWN_FAILURES = 5
_ENCODER = json.JSONEncoder(ensure_ascii=False)
LONGEST_MESSAGE = 100  # characters of a message in the table; the file has all of it


class Tally:
    """Counts over all pairs; its size does not grow with their number.

    Accuracy is that of the first answer of each pair; further samples count in `any_right`. A pair
    whose gold is unstable counts as unjudged.
    """

    def __init__(self) -> None:
        self.pairs = 0
        self.answers = 0
        self.verdicts: Counter[Verdict] = Counter()  # first answers
        self.statuses: Counter[Status] = Counter()  # all answers
        self.gold_statuses: Counter[Status] = Counter()
        self.both_empty = 0  # first answers that are right on two empty results
        self.any_right = 0
        self.any_judged = 0
        self.score = 0.0  # sum over the judged first answers
        self.by_database: dict[str, Counter[Verdict]] = {}
        self.failing_golds: list[tuple[Item, Outcome]] = []  # the first few
        self.causes: Counter[str] = Counter()  # why golds are unstable; '' when it is not known
        self.probed = 0  # golds whose stability was asked for

    def add_answers(
        self, items: Sequence[Item], judged: Verdicts, stability: Sequence[Stability]
    ) -> None:
        """Counts a batch of judged answers; `stability` of the golds may be empty."""
        first = judged.offsets[:-1]
        fit = self._add_golds(items, judged.golds, first, stability)
        verdict = judged.verdict.copy()
        verdict[np.repeat(~fit, np.diff(judged.offsets))] = Verdict.UNJUDGED
        of_first = verdict[first]
        _count(self.verdicts, Verdict, of_first)
        _count(self.statuses, Status, judged.candidates.status)
        self.answers += len(verdict)
        self.both_empty += int((judged.both_empty[first] & (of_first == Verdict.RIGHT)).sum())
        self.score += float(judged.score[first][of_first != Verdict.UNJUDGED].sum(dtype=float))
        right = np.logical_or.reduceat(verdict == Verdict.RIGHT, first)
        decided = np.logical_or.reduceat(verdict != Verdict.UNJUDGED, first)
        self.any_right += int(right.sum())
        self.any_judged += int(decided.sum())
        for item, number in zip(items, of_first.tolist(), strict=True):
            self.by_database.setdefault(item.database, Counter())[Verdict(number)] += 1

    def add_golds(
        self, items: Sequence[Item], outcomes: Outcomes, stability: Sequence[Stability]
    ) -> None:
        """Counts a batch of golds that are run alone."""
        self._add_golds(items, outcomes, np.arange(len(items)), stability)
        for item, ran in zip(items, outcomes.ran.tolist(), strict=True):
            verdict = Verdict.RIGHT if ran else Verdict.WRONG
            self.by_database.setdefault(item.database, Counter())[verdict] += 1

    def _add_golds(
        self,
        items: Sequence[Item],
        outcomes: Outcomes,
        index: NDArray[np.int64],
        stability: Sequence[Stability],
    ) -> NDArray[np.bool_]:
        """Counts golds, item i's being `outcomes[index[i]]`; says which are not unstable."""
        self.pairs += len(items)
        status = outcomes.status[index]
        _count(self.gold_statuses, Status, status)
        for i in np.flatnonzero(status > Status.EMPTY)[: SHOWN_FAILURES - len(self.failing_golds)]:
            self.failing_golds.append((items[i], outcomes[int(index[i])]))
        self.probed += len(stability)
        self.causes.update(one.cause for one in stability if not one.verdict)
        if not stability:
            return np.ones(len(items), bool)
        return np.array([one.verdict is not False for one in stability])


def _count(counts: Counter[_Kind], kind: type[_Kind], numbers: NDArray[np.uint8]) -> None:
    for number, times in enumerate(np.bincount(numbers)):
        if times:
            counts[kind(number)] += int(times)


# -- the table ----------------------------------------------------------------------------------


def print_answers(console: Console, tally: Tally, compare: str) -> None:
    """Accuracy with its interval, verdicts, statuses and the databases with the worst accuracy."""
    from spftcore.metrics import accuracy  # brings scipy, which is slow to import

    right, wrong = tally.verdicts[Verdict.RIGHT], tally.verdicts[Verdict.WRONG]
    estimate = accuracy([True] * right + [False] * wrong)
    table = _table("", "")
    if estimate.total:
        table.add_row(
            "execution accuracy",
            f"[bold]{100 * estimate.share:.1f} %[/]  (95 % interval {100 * estimate.low:.1f} to "
            f"{100 * estimate.high:.1f}; {right:,} of {estimate.total:,} judged, {compare})",
        )
        if compare == "soft_f1":
            table.add_row("mean soft-F1", f"{100 * tally.score / estimate.total:.1f}")
    else:
        table.add_row("execution accuracy", "none: no pair could be judged")
    if tally.answers > tally.pairs:
        table.add_row(
            "any answer right",
            f"{_share(tally.any_right, tally.any_judged)}  ({tally.any_right:,} of "
            f"{tally.any_judged:,} pairs; {tally.answers:,} answers)",
        )
    unjudged = tally.verdicts[Verdict.UNJUDGED]
    table.add_row("verdicts", f"right {right:,} · wrong {wrong:,} · unjudged {unjudged:,}")
    if tally.both_empty:
        table.add_row("", f"{tally.both_empty:,} right on two empty results: weak evidence")
    table.add_row("answers", _statuses(tally.statuses))
    table.add_row("golds", _statuses(tally.gold_statuses))
    _add_stability(table, tally)
    console.print(table)
    _print_databases(console, tally, "right")
    _print_failing_golds(console, tally)


def print_golds(console: Console, tally: Tally) -> None:
    """Statuses of golds that are judged alone, and the databases with most failures."""
    ran = tally.gold_statuses[Status.OK] + tally.gold_statuses[Status.EMPTY]
    table = _table("", "")
    table.add_row(
        "golds that run", f"[bold]{_share(ran, tally.pairs)}[/]  ({ran:,} of {tally.pairs:,})"
    )
    table.add_row("golds", _statuses(tally.gold_statuses))
    _add_stability(table, tally)
    console.print(table)
    if ran < tally.pairs:
        _print_databases(console, tally, "run")
    _print_failing_golds(console, tally)


def print_cost(
    console: Console, tally: Tally, seconds: float, threads: int, counters: Mapping[str, int]
) -> None:
    """Time and what the executor did; `seconds` are those inside the executor."""
    rate = tally.pairs / seconds if seconds else 0.0
    console.print(
        f"{_number(tally.pairs, 'pair')} in {seconds:.2f} s ({rate:,.0f} pairs/s, "
        f"{_number(threads, 'thread')}): {counters.get('executed', 0):,} queries run, "
        f"{counters.get('duplicates', 0):,} repeats not run again, "
        f"{counters.get('gold_hits', 0):,} golds from the cache.",
        highlight=False,
        soft_wrap=True,
    )


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=any(headers), pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number and any(headers) else "left")
    return table


def _add_stability(table: Table, tally: Tally) -> None:
    if not tally.probed:
        return
    unknown = tally.causes[""]
    unstable = tally.causes.total() - unknown
    text = f"stable {tally.probed - unstable - unknown:,} · unstable {unstable:,}"
    if unstable:
        causes = (f"{name} {n:,}" for name, n in tally.causes.most_common() if name)
        text += f" ({', '.join(causes)})"
    table.add_row("stability", f"{text} · unknown {unknown:,}" if unknown else text)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _statuses(statuses: Counter[Status]) -> str:
    names = {status: status.name.lower().replace("_", " ") for status in Status}
    return " · ".join(f"{names[s]} {statuses[s]:,}" for s in Status if statuses[s]) or "none"


def _print_databases(console: Console, tally: Tally, what: str) -> None:
    """The worst first; databases of which nothing could be judged come before all."""
    if len(tally.by_database) < 2:
        return

    def share(counts: Counter[Verdict]) -> float:
        judged = counts[Verdict.RIGHT] + counts[Verdict.WRONG]
        return counts[Verdict.RIGHT] / judged if judged else -1.0

    worst = sorted(tally.by_database.items(), key=lambda entry: (share(entry[1]), entry[0]))
    table = _table("database (worst first)", what, "pairs", "share", "unjudged")
    for name, counts in worst[:SHOWN_DATABASES]:
        judged = counts[Verdict.RIGHT] + counts[Verdict.WRONG]
        table.add_row(
            escape(name),
            f"{counts[Verdict.RIGHT]:,}",
            f"{counts.total():,}",
            _share(counts[Verdict.RIGHT], judged),
            f"{counts[Verdict.UNJUDGED]:,}",
        )
    console.print(table)
    more = len(worst) - SHOWN_DATABASES
    if more > 0:
        console.print(f"… and {more:,} more database{'s' if more > 1 else ''}.", highlight=False)


def _print_failing_golds(console: Console, tally: Tally) -> None:
    failing = sum(n for s, n in tally.gold_statuses.items() if s > Status.EMPTY)
    if not failing:
        return
    console.print(
        f"[bold]{failing:,} gold{'s do' if failing > 1 else ' does'} not run:[/]", highlight=False
    )
    for item, outcome in tally.failing_golds:
        message = outcome.message
        if len(message) > LONGEST_MESSAGE:
            message = message[: LONGEST_MESSAGE - 1] + "…"
        console.print(f"  {item.id} ({item.database}): {message}", markup=False, highlight=False)
    if failing > len(tally.failing_golds):
        console.print(f"  … and {failing - len(tally.failing_golds):,} more.", highlight=False)


# -- the file of outcomes -----------------------------------------------------------------------


class OutcomeFile:
    """One JSON object a line for each answer; the file appears whole or not at all.

    Raises:
        SpftError: it cannot be written; what stood under its name before is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._file: IO[str] | None = None

    def __enter__(self) -> OutcomeFile:
        return self

    def begin(self) -> None:
        """Opens the file: inside the `with`, so that Ctrl-C at any moment leaves nothing behind."""
        try:
            self._file = self._partial.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise self._unwritable(error) from None

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines."""
        assert self._file is not None
        try:
            for record in records:
                self._file.write(_ENCODER.encode(record) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._file is not None:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                self._file.close()
                if kind is None:
                    self._partial.replace(self._path)
        except OSError as failure:
            raise self._unwritable(failure) from None
        finally:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> SpftError:
        return SpftError(
            f"Cannot write the outcomes to {self._path}: {error.strerror}. Choose another place "
            "with --output."
        )


def answer_record(
    item: Item, number: int, judgement: Judgement, stability: Stability | None
) -> dict[str, Any]:
    """One line of the file: answer `number` (from 0) of a pair, and its gold."""
    if stability is not None and stability.verdict is False:
        judgement = replace(
            judgement,
            verdict=Verdict.UNJUDGED,
            score=0.0,
            reason=f"gold is unstable: {stability.message}",
        )
    return {
        "id": item.id,
        "database": item.database,
        "answer": number,
        "sql": item.answers[number],
        "verdict": judgement.verdict.name.lower(),
        "reason": judgement.reason,
        "score": judgement.score,
        "both_empty": judgement.both_empty,
        "judged_on": judgement.database,
        **_fields(judgement.candidate, ""),
        **_fields(judgement.gold, "gold_"),
        **_stability(stability),
    }


def gold_record(item: Item, outcome: Outcome, stability: Stability | None) -> dict[str, Any]:
    """One line of the file when the golds are judged alone."""
    return {
        "id": item.id,
        "database": item.database,
        "sql": item.gold,
        **_fields(outcome, ""),
        "all_null": outcome.all_null,
        **_stability(stability),
    }


def _stability(stability: Stability | None) -> dict[str, Any]:
    if stability is None:
        return {}
    return {
        "stable": stability.verdict,
        "unstable_cause": stability.cause,
        "stability_message": stability.message,
        "stability_probe": stability.probe,
    }


def _fields(outcome: Outcome, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}status": outcome.status.name.lower(),
        f"{prefix}message": outcome.message,
        f"{prefix}rows": outcome.rows,
        f"{prefix}columns": outcome.columns,
        f"{prefix}steps": outcome.steps,
        f"{prefix}seconds": outcome.seconds,
        f"{prefix}fingerprint": outcome.fingerprint,
    }
