"""An evaluation's figures on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spftcore.metrics.summary import DEFAULT_GROUPS, RAN, Score, Summary
from spftcore.printable import printable

TITLES = {
    "spider": "EX (spider)",
    "bird": "EX (bird)",
    "bag": "EX (bag)",
    "ts": "TS",
    "soft_f1": "soft-F1",
    "ves_steps": "VES by steps",
    "ves": "VES",
    "r_ves": "R-VES",
    "vote": "majority vote",
}

RATIOS = frozenset(("ves_steps", "ves", "r_ves"))  # times 100, as BIRD gives them, but no shares


def print_summary(console: Console, summary: Summary, by: Sequence[str] = DEFAULT_GROUPS) -> None:
    """The table of metrics, those by group, and what is left out or weak."""
    _print_metrics(console, summary)
    for name in by:
        if name in summary.groups:
            _print_groups(console, name, summary.groups[name], list(summary.metrics))
    for line in _remarks(summary):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def title(metric: str) -> str:
    """What a metric is called in tables."""
    return TITLES.get(metric, metric)


def _print_metrics(console: Console, summary: Summary) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, header in enumerate(("metric", "right", "total", "score", "95 % interval")):
        table.add_column(header, justify="right" if number else "left")
    for name, score in summary.metrics.items():
        interval = (
            f"{100 * score.low:.1f} to {100 * score.high:.1f}"
            if score.total and score.low is not None and score.high is not None
            else ""
        )
        right = "" if score.right is None else f"{score.right:,}"
        table.add_row(
            title(name), right, f"{score.total:,}", f"[bold]{_share(score, name)}[/]", interval
        )
    console.print(table)


def _print_groups(
    console: Console,
    name: str,
    groups: Mapping[str, Mapping[str, Score]],
    metrics: Sequence[str],
) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, header in enumerate((name, "questions", *map(title, metrics))):
        table.add_column(header, justify="right" if number else "left")
    for group, scores in groups.items():
        total = max(score.total for score in scores.values())
        table.add_row(
            escape(printable(group)), f"{total:,}", *(_share(scores[m], m) for m in metrics)
        )
    console.print(table)


def _remarks(summary: Summary) -> list[str]:
    lines = []
    excluded = sum(summary.excluded.values())
    if excluded:
        causes = ", ".join(f"{cause} {n:,}" for cause, n in summary.excluded.items())
        lines.append(f"Excluded: {excluded:,} of {summary.questions:,} questions ({causes}).")
    failed = {s: n for s, n in summary.statuses.items() if s not in RAN}
    if failed:
        causes = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in failed.items())
        empty = f"; without any answer {summary.no_answer:,}" if summary.no_answer else ""
        ran = summary.counted - sum(failed.values())
        lines.append(f"Valid SQL: {ran:,} of {summary.counted:,} ({causes}{empty}).")
    else:
        lines.append(f"Valid SQL: all {summary.counted:,}.")
    if summary.copies == summary.counted:
        lines.append("Every answer is the gold, letter for letter: are these predictions?")
    for name, number in summary.unjudged.items():
        why = " (no family, or undecided)" if name == "ts" else ""
        lines.append(f"{title(name)} could not be judged on {number:,} questions{why}.")
    if summary.near_misses:
        lines.append(f"Right on the database, wrong on its family: {summary.near_misses:,}.")
    unstable = sum(summary.unstable.values())
    if unstable:
        causes = ", ".join(f"{cause} {n:,}" for cause, n in summary.unstable.items())
        lines.append(f"Unstable golds: {unstable:,} ({causes}).")
        for name, ties in summary.ties.items():
            lines.append(
                f"  {title(name)}: {ties.right:,} right and {ties.wrong:,} wrong there, "
                f"{100 * ties.share:.1f} % of all right answers; {_share(ties.without)} without."
            )
    return lines


def _share(score: Score, metric: str = "") -> str:
    unit = "" if metric in RATIOS else " %"
    return f"{100 * score.mean:.1f}{unit}" if score.total else "–"
