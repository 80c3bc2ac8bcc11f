"""A comparison of systems in sentences and tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spftcore.metrics import Interval
from spftcore.metrics.paired import KINDS, LEAST_DATABASES, Paired, Slice
from spftcore.printable import printable
from spftcore.report import SIGNIFICANCE, p_number

if TYPE_CHECKING:
    from spftcore.compare import Result, System

_MOST_MISTAKES = 10
_MOST_DATABASES = 8  # shown one by one, those with the largest difference


def sentences(result: Result) -> list[str]:
    """What the comparison says, one statement each."""
    a, b, paired = result.first.name, result.second.name, result.paired
    d, size = paired.difference, abs(100 * paired.difference.value)
    numbers = f"95 % interval {_points(d.low)} to {_points(d.high)}, {_p(result.adjusted_p)}"
    if paired.difference.value == 0 and not paired.better and not paired.worse:
        first = f"{a} and {b} score the same on every question."
    elif result.adjusted_p < SIGNIFICANCE:
        better, worse = (a, b) if d.value > 0 else (b, a)
        first = f"{better} is better than {worse} by {size:.1f} points ({numbers}): not noise."
    elif d.p != d.p:
        first = (
            f"{a} and {b} differ by {size:.1f} points on {_questions(paired)}: too few to say "
            "whether it is noise."
        )
    else:
        first = (
            f"{a} and {b} differ by {size:.1f} points ({numbers}): noise. Two equal systems would "
            f"differ by as much in {round(100 * d.p)} of 100 such comparisons."
        )
    found = [first]
    over = paired.over_databases
    if over is None:
        found.append(
            f"{paired.databases} {'database is' if paired.databases == 1 else 'databases are'} too "
            f"few to say anything about other databases (it takes {LEAST_DATABASES})."
        )
    elif paired.better or paired.worse:
        bounds = f"with databases drawn as a whole, the interval is {_points(over.low)} to "
        bounds += _points(over.high)
        if over.low > 0 or over.high < 0:
            found.append(f"It should hold on other databases: {bounds}.")
        else:
            found.append(f"Whether it would hold on other databases is open: {bounds}.")
    if paired.stable is not None:
        s = paired.stable
        found.append(
            f"The golds of {paired.unstable} questions hang on more than the data; without them "
            f"the difference is {_points(s.value)} ({_range(s, signed=True)}, {_p(s.p)})."
        )
    real = [one for one in paired.slices if one.adjusted_p < SIGNIFICANCE]
    looks = f"corrected for {len(paired.slices)} looks"
    if real:
        where = ", ".join(
            f"{one.kind} {one.value} ({_points(one.difference.value)})" for one in real
        )
        found.append(f"Not noise in these parts, {looks}: {where}.")
    elif paired.slices:
        found.append(f"In no part alone is it more than noise, {looks}.")
    return found


def left_out_sentence(paired: Paired) -> str:
    """How many questions are not compared, and why; empty when all are."""
    if not paired.left_out:
        return ""
    causes = "; ".join(f"{count} {cause}" for cause, count in paired.left_out.items())
    return f"Left out: {causes}."


def print_comparison(result: Result, questions: int, console: Console) -> None:
    """Prints everything about one pair of systems."""
    paired = result.paired
    say(console, f"{paired.metric} on {_questions(paired)}", style="bold")
    if text := left_out_sentence(paired):
        say(console, text)
    table = _table("system", "score", "95 % interval", "only this one")
    rows: list[tuple[System, Interval, int]] = [
        (result.first, paired.first, len(paired.better)),
        (result.second, paired.second, len(paired.worse)),
    ]
    for system, interval, alone in rows:
        table.add_row(
            escape(printable(system.name)), _share(interval.value), _range(interval), str(alone)
        )
    console.print(table)
    for sentence in sentences(result):
        say(console, sentence)
    if paired.better or paired.worse:
        console.print(_slice_table(paired.slices))
        if paired.mistakes:
            console.print(_mistake_table(paired))
        for system, ids in ((result.first, paired.better), (result.second, paired.worse)):
            _print_questions(result, system, ids[:questions], len(ids), console)


def print_pairs(results: Sequence[Result], console: Console) -> None:
    """Prints one row for each pair of more than two systems, and what the pairs say."""
    say(console, f"{results[0].paired.metric}, each pair on the questions that count for both")
    table = _table("pair", "n", "first", "second", "difference", "p (Holm)")
    for result in results:
        paired = result.paired
        d = paired.difference
        table.add_row(
            escape(printable(f"{result.first.name} − {result.second.name}")),
            str(paired.questions),
            _share(paired.first.value),
            _share(paired.second.value),
            f"{_points(d.value)} ({_range(d, signed=True)})",
            p_number(result.adjusted_p) if d.p == d.p else "–",
        )
    console.print(table)
    for result in results:
        say(console, sentences(result)[0])
    say(console, f"p-values are corrected for {len(results)} pairs.")


def say(console: Console, text: str, style: str | None = None) -> None:
    """Prints text as it is: names and SQL may hold what rich takes for markup, or what a terminal
    would obey."""
    console.print(
        printable(text),
        markup=False,
        highlight=False,
        soft_wrap=not console.is_terminal,
        style=style,
    )


def _print_questions(
    result: Result, system: System, ids: Sequence[str], total: int, console: Console
) -> None:
    if not ids:
        return
    first = {one.id: one for one in result.first.scored}
    second = {one.id: one for one in result.second.scored}
    shown = f", {len(ids)} of them" if len(ids) < total else ""
    console.print()
    say(console, f"{system.name} alone scores higher on {total}{shown}:", style="bold")
    for id_ in ids:
        one, other = first[id_], second[id_]
        say(console, f"{id_} ({one.database}) {one.question}")
        for label, sql in (
            ("gold", one.gold),
            (result.first.name, one.sql),
            (result.second.name, other.sql),
        ):
            say(console, f"    {label}: {' '.join(sql.split())}")


def _slice_table(slices: Sequence[Slice]) -> Table:
    table = _table("part", "n", "first", "second", "difference", "p (Holm)")
    for kind in KINDS:
        chosen = [one for one in slices if one.kind == kind]
        hidden = 0
        if kind == "database" and len(chosen) > _MOST_DATABASES:
            chosen.sort(key=lambda one: (-abs(one.difference.value) * one.questions, one.value))
            hidden = len(chosen) - _MOST_DATABASES
            chosen = chosen[:_MOST_DATABASES]
        if chosen:
            table.add_section()
            table.add_row(kind, style="bold")
        for one in chosen:
            d = one.difference
            table.add_row(
                escape(printable(f"  {one.value}")),
                str(one.questions),
                _share(one.first),
                _share(one.second),
                f"{_points(d.value)} ({_range(d, signed=True)})",
                p_number(one.adjusted_p) if d.p == d.p else "–",
            )
        if hidden:
            table.add_row(f"  {hidden} more")
    return table


def _mistake_table(paired: Paired) -> Table:
    table = _table("mistakes (the most telling of each answer)", "first", "second", "difference")
    for name, (first, second) in list(paired.mistakes.items())[:_MOST_MISTAKES]:
        change = f"{first - second:+d}".replace("-", "−") if first != second else "0"
        table.add_row(escape(printable(f"  {name}")), str(first), str(second), change)
    hidden = len(paired.mistakes) - _MOST_MISTAKES
    if hidden > 0:
        table.add_row(f"  {hidden} more")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _questions(paired: Paired) -> str:
    databases = "1 database" if paired.databases == 1 else f"{paired.databases} databases"
    questions = "1 question" if paired.questions == 1 else f"{paired.questions} questions"
    return f"{questions} of {databases}"


def _points(value: float) -> str:
    return "–" if value != value else f"{100 * value:+.1f}".replace("-", "−")


def _share(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"


def _range(interval: Interval, signed: bool = False) -> str:
    if interval.low != interval.low:
        return "–"
    show = _points if signed else _share
    return f"{show(interval.low)} to {show(interval.high)}"


def _p(p: float) -> str:
    if p != p:
        return "no p-value"
    return f"p {p_number(p)}" if p < 0.001 else f"p = {p_number(p)}"
