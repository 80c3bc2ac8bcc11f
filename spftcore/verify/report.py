"""What `python -m spftcore.verify` shows and writes: counts by verdict and database, outcomes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spftcore.errors import SpftError
from spftcore.verify.outcomes import Judgement, Outcome, Status, Verdict
from spftcore.verify.records import Item

SHOWN_DATABASES = 10
SHOWN_FAILURES = 5
LONGEST_MESSAGE = 100  # characters of a message in the table; the file has all of it


class Tally:
    """Counts over all pairs; its size does not grow with their number.

    Accuracy is that of the first answer of each pair; further samples count in `any_right`.
    """

    def __init__(self) -> None:
        self.pairs = 0
        self.candidates = 0
        self.verdicts: Counter[Verdict] = Counter()  # first answers
        self.statuses: Counter[Status] = Counter()  # all answers, or the golds where alone
        self.gold_statuses: Counter[Status] = Counter()
        self.both_empty = 0  # first answers that are right on two empty results
        self.any_right = 0
        self.any_judged = 0
        self.score = 0.0  # sum over the judged first answers
        self.by_database: dict[str, Counter[Verdict]] = {}
        self.failing_golds: list[tuple[Item, Outcome]] = []  # the first few

    def add(self, item: Item, judgements: Sequence[Judgement]) -> None:
        """Counts one pair's answers."""
        first = judgements[0]
        self._add_gold(item, first.gold)
        self.candidates += len(judgements)
        self.verdicts[first.verdict] += 1
        self.both_empty += first.both_empty and first.verdict is Verdict.RIGHT
        if first.verdict is not Verdict.UNJUDGED:
            self.score += score(first)
        self.by_database.setdefault(item.database, Counter())[first.verdict] += 1
        for judgement in judgements:
            self.statuses[judgement.candidate.status] += 1
        verdicts = {judgement.verdict for judgement in judgements}
        self.any_right += Verdict.RIGHT in verdicts
        self.any_judged += verdicts != {Verdict.UNJUDGED}

    def add_gold(self, item: Item, outcome: Outcome) -> None:
        """Counts one gold that is judged alone."""
        self._add_gold(item, outcome)
        verdict = Verdict.RIGHT if outcome.ran else Verdict.WRONG
        self.by_database.setdefault(item.database, Counter())[verdict] += 1

    def _add_gold(self, item: Item, outcome: Outcome) -> None:
        self.pairs += 1
        self.gold_statuses[outcome.status] += 1
        if not outcome.ran and len(self.failing_golds) < SHOWN_FAILURES:
            self.failing_golds.append((item, outcome))


def score(judgement: Judgement) -> float:
    """The judgement's score between 0 and 1: soft-F1 where that is the comparison."""
    return float(getattr(judgement, "score", judgement.verdict is Verdict.RIGHT))


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
    if tally.candidates > tally.pairs:
        table.add_row(
            "any answer right",
            f"{_share(tally.any_right, tally.any_judged)}  ({tally.any_right:,} of "
            f"{tally.any_judged:,} pairs; {tally.candidates:,} answers)",
        )
    unjudged = tally.verdicts[Verdict.UNJUDGED]
    table.add_row("verdicts", f"right {right:,} · wrong {wrong:,} · unjudged {unjudged:,}")
    if tally.both_empty:
        table.add_row("", f"{tally.both_empty:,} right on two empty results: weak evidence")
    table.add_row("answers", _statuses(tally.statuses))
    table.add_row("golds", _statuses(tally.gold_statuses))
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
        f"{tally.pairs:,} pairs in {seconds:.2f} s ({rate:,.0f} pairs/s, {threads} "
        f"thread{'s' if threads > 1 else ''}): {counters.get('executed', 0):,} queries run, "
        f"{counters.get('duplicates', 0):,} repeats not run again, "
        f"{counters.get('gold_hits', 0):,} golds from the cache.",
        highlight=False,
        soft_wrap=True,
    )


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=any(headers), pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number and any(headers) else "left")
    return table


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
        try:
            self._file = self._partial.open("w", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds lines."""
        assert self._file is not None
        try:
            for record in records:
                self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        try:
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


def answer_record(item: Item, number: int, judgement: Judgement) -> dict[str, Any]:
    """One line of the file: answer `number` (from 0) of a pair, and its gold."""
    return {
        "id": item.id,
        "database": item.database,
        "answer": number,
        "sql": item.answers[number],
        "verdict": judgement.verdict.name.lower(),
        "reason": judgement.reason,
        "score": score(judgement),
        "both_empty": judgement.both_empty,
        **_fields(judgement.candidate, ""),
        **_fields(judgement.gold, "gold_"),
    }


def gold_record(item: Item, outcome: Outcome) -> dict[str, Any]:
    """One line of the file when the golds are judged alone."""
    return {
        "id": item.id,
        "database": item.database,
        "sql": item.gold,
        **_fields(outcome, ""),
        "all_null": outcome.all_null,
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
