"""The browsable page of an evaluation: scores, slices, mistakes, and every question with both
queries and the first rows of their results."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from spftcore.benchmarks import Benchmark
from spftcore.errors import SpftError
from spftcore.metrics import Interval
from spftcore.metrics.evaluation import Evaluation, Judging
from spftcore.metrics.groups import groups_of
from spftcore.metrics.paired import KINDS, mean, slice_order
from spftcore.metrics.records import Scored
from spftcore.metrics.scoring import EXECUTION
from spftcore.mistakes import find_mistakes
from spftcore.mistakes.classes import FAILURES, describe, rank
from spftcore.report import percent
from spftcore.verify import Compare, Executor

PAGE = "report.html"  # in an evaluation's folder
ROWS, COLUMNS, CHARACTERS = 5, 8, 60  # shown of a result
_SQL_CHARACTERS = 4_000  # shown of a query: a model that repeats itself writes more


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its interval, in per cent.

    Attributes:
        name: what it is of.
        total: questions behind it.
        interval: in per cent.
        width: of the bar, 0 to 100.
    """

    name: str
    total: int
    interval: Interval

    @property
    def width(self) -> float:
        return min(100.0, max(0.0, self.interval.value)) if self.total else 0.0


def bar(name: str, values: Sequence[float]) -> Bar:
    """The mean of a metric's values with its 95 % interval."""
    found = mean(values)
    return Bar(
        name,
        len(values),
        Interval(100 * found.value, 100 * found.low, 100 * found.high),
    )


def verdict(one: Scored, metric: str) -> str:
    """right, near miss (right by this metric, wrong on the family), wrong, unjudged or excluded."""
    if one.excluded:
        return "excluded"
    if metric not in one.scores:
        return "unjudged"
    if one.scores[metric] != 1:
        return "wrong"
    return "near miss" if one.near_miss else "right"


def explained(evaluation: Evaluation, benchmark: Benchmark, judging: Judging) -> Evaluation:
    """The evaluation with the classes of mistake of its wrong answers."""
    metric = _right_and_wrong(judging)
    if metric is None:
        return evaluation
    with Executor(threads=judging.threads, limits=judging.limits) as executor:
        scored = find_mistakes(evaluation.scored, benchmark.databases, executor, metric)
    return replace(evaluation, scored=tuple(scored))


def write_page(
    folder: Path, evaluation: Evaluation, benchmark: Benchmark, judging: Judging, system: str
) -> Path | None:
    """Writes `report.html` of an evaluation into its folder: one file, no external resource.

    Args:
        folder: of the evaluation.
        evaluation: with the mistakes that `explained` found.
        benchmark: what was asked; its files give the rows of wrong answers and their golds.
        judging: how right was told from wrong.
        system: name of what was evaluated.

    Returns:
        The page; None where no metric tells right from wrong.

    Raises:
        SpftError: the file cannot be written.
    """
    metric = _right_and_wrong(judging)
    if metric is None:
        return None
    scored = evaluation.scored
    with Executor(threads=judging.threads, limits=judging.limits) as executor:
        results = _results(scored, benchmark.databases, executor, metric)
    about = f"{benchmark.path.name} ({benchmark.kind})"
    html = render(scored, results, title=system, subtitle=about, metric=metric)
    path = folder / PAGE
    partial = path.with_name(PAGE + ".partial")
    try:
        # Model text may hold lone surrogates, which no encoding has.
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        raise SpftError(
            f"Cannot write the page {path}: {error.strerror}. Make the folder writable, or free "
            "some space."
        ) from None
    return path


def _right_and_wrong(judging: Judging) -> Compare | None:
    return next((name for name in EXECUTION if name in judging.metrics), None)


def render(
    scored: Sequence[Scored],
    results: Mapping[str, tuple[Any, Any]],
    *,
    title: str,
    subtitle: str,
    metric: str,
) -> str:
    """The page as text; `results` holds what `_results` returns, by question id."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # questions and SQL are written by users and models
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent)
    counted = [one for one in scored if not one.excluded]
    metrics = list(dict.fromkeys(name for one in counted for name in one.scores))
    verdicts = Counter(verdict(one, metric) for one in scored)
    unstable = [one for one in counted if one.unstable and metric in one.scores]
    stable = [one for one in counted if not one.unstable and metric in one.scores]
    return environment.get_template("evaluation.html.j2").render(
        # Only the page's own script carries the nonce, so no other would run even if it got in.
        nonce=secrets.token_hex(8),
        title=title,
        subtitle=subtitle,
        metric=metric,
        questions=len(scored),
        counted=len(counted),
        verdicts=verdicts,
        scores=[
            bar(name, [one.scores[name] for one in counted if name in one.scores])
            for name in metrics
        ],
        slices=_slices(counted, metric),
        mistakes=_mistakes([one for one in counted if verdict(one, metric) == "wrong"]),
        near=_mistakes([one for one in counted if verdict(one, metric) == "near miss"]),
        excluded=Counter(one.excluded for one in scored if one.excluded).most_common(),
        unstable=Counter(one.unstable for one in unstable).most_common(),
        ties=[
            bar("with them", [one.scores[metric] for one in (*unstable, *stable)]),
            bar("without them", [one.scores[metric] for one in stable]),
            bar("on them alone", [one.scores[metric] for one in unstable]),
        ],
        mistake_names=sorted({m for one in scored for m in one.mistakes}, key=rank),
        databases=sorted({one.database for one in scored}),
        levels=_levels(scored),
        examples=[_example(one, metric, results.get(one.id)) for one in scored],
    )


def _slices(counted: Sequence[Scored], metric: str) -> list[tuple[str, list[Bar]]]:
    members: dict[tuple[str, str], list[float]] = {}
    for one in counted:
        if metric in one.scores:
            for key in groups_of(one):
                members.setdefault(key, []).append(one.scores[metric])
    return [
        (kind, [bar(k[1], members[k]) for k in sorted(members, key=slice_order) if k[0] == kind])
        for kind in KINDS
        if any(key[0] == kind for key in members)
    ]


def _mistakes(chosen: Sequence[Scored]) -> dict[str, Any]:
    """Counts of a group of answers by class: named first, and named at all."""
    first = Counter(one.mistakes[0] for one in chosen if one.mistakes)
    named = Counter(name for one in chosen for name in one.mistakes)
    rows = [
        {"name": name, "first": first[name], "named": named[name], "says": describe(name)}
        for name in sorted(named, key=lambda name: (-first[name], -named[name], rank(name)))
    ]
    return {
        "answers": len(chosen),
        "most": max(named.values(), default=1),
        "ran": [row for row in rows if row["name"] not in FAILURES],
        "failed": [row for row in rows if row["name"] in FAILURES],
    }


def _levels(scored: Sequence[Scored]) -> list[str]:
    keys = {key for one in scored for key in groups_of(one)}
    return [k[1] for k in sorted(keys, key=slice_order) if k[0] in ("hardness", "difficulty")]


def _example(one: Scored, metric: str, results: tuple[Any, Any] | None) -> dict[str, Any]:
    """What the page's script needs of a question; empty fields are left out."""
    values = {
        "id": one.id,
        "database": one.database,
        "question": one.question,
        "evidence": one.evidence,
        "gold": _cut(one.gold, _SQL_CHARACTERS),
        "sql": _cut(one.sql, _SQL_CHARACTERS),
        "level": one.difficulty or one.hardness,
        "verdict": verdict(one, metric),
        "why": one.excluded or ("" if one.status in ("ok", "empty") else one.message),
        "unstable": one.unstable,
        "mistakes": list(one.mistakes),
        "scores": {name: round(value, 4) for name, value in one.scores.items()},
        "results": results,
    }
    return {key: value for key, value in values.items() if value}


def _results(
    scored: Sequence[Scored],
    databases: Mapping[str, Path],
    executor: Executor,
    metric: str,
) -> dict[str, tuple[Any, Any]]:
    """First rows of gold and answer of what is wrong or nearly right, by question id."""
    chosen = [
        one
        for one in scored
        if verdict(one, metric) in ("wrong", "near miss") and one.database in databases
    ]
    texts = [(databases[one.database], sql) for one in chosen for sql in (one.gold, one.sql)]
    outcomes = executor.execute(texts)
    shown = [
        _first_rows(executor, path, sql, outcome.rows) if outcome.ran else None
        for (path, sql), outcome in zip(texts, outcomes, strict=True)
    ]
    return {one.id: (shown[2 * i], shown[2 * i + 1]) for i, one in enumerate(chosen)}


def _first_rows(executor: Executor, path: Path, sql: str, total: int) -> dict[str, Any] | None:
    """The head of a result. Of a long one only the first rows are fetched, where SQLite lets a
    query stand in brackets."""
    names, rows = None, None
    if total > 50 * ROWS:
        wrapped = f"select * from (\n{sql.strip().rstrip(';')}\n) limit {ROWS}"
        with suppress(SpftError):
            names, rows = executor.rows(path, wrapped)
    if names is None or rows is None:
        try:
            names, rows = executor.rows(path, sql)
        except SpftError:
            return None
    return {
        "total": total,
        "width": len(names),
        "names": [_cut(name, CHARACTERS) for name in names[:COLUMNS]],
        "rows": [[_cell(value) for value in row[:COLUMNS]] for row in rows[:ROWS]],
    }


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return _cut(f"x'{value[:CHARACTERS].hex()}'", CHARACTERS)
    return _cut(str(value), CHARACTERS)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
