"""What the report shows, read from the run store and brought into the shape the page needs."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spftcore.metrics import accuracy
from spftcore.pairs import Pair
from spftcore.store import Answer, Candidate, Store

# Names of the systems that are compared, in the order in which they are shown.
SYSTEM_NAMES = {
    "base": "base",
    "sft": "SFT",
    "spin": "SPIN",
    "exspin": "ExSPIN",
    "dpo": "VBI-FT + DPO",
    "vbi": "VBI-FT",
    "self_play": "SPFT-SQL",
}

EXAMPLES = 300  # questions shown in full
PAIRS_PER_ROUND = 6  # synthesized pairs shown of each round
EXCLUDED = 200  # excluded pairs listed one by one
CURVES = ("loss", "margin", "ranking accuracy")
SMOOTHING = 10  # a curve is averaged over a tenth of its points

STATUS_NAMES = {
    "ok": "ran",
    "empty": "ran, no rows",
    "syntax_error": "syntax error",
    "missing_name": "no such table or column",
    "sql_error": "other SQL error",
    "denied": "refused by the sandbox",
    "step_budget": "over the step budget",
    "time_budget": "over the time limit",
    "too_large": "result too large",
    "database_error": "database error",
}


def _results(store: Store) -> dict[str, dict[str, Any]]:
    """Results of the finished stages, in the order of finishing."""
    rows = store.query("select name, result from stages order by finished_at, name")
    return {name: json.loads(result) for name, result in rows}


# -- header -------------------------------------------------------------------------------------


def overview(directory: Path, store: Store) -> dict[str, Any]:
    """Name, date, settings, and what the run works on."""
    results = _results(store)
    (finished_at,) = store.query("select max(finished_at) from stages")[0]
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(finished_at)) if finished_at else None
    settings = directory / "config.yaml"
    databases, tables, rows = store.query(
        "select count(*), coalesce(sum(tables), 0), coalesce(sum(rows), 0) from databases"
    )[0]
    return {
        "name": directory.resolve().name,
        "date": date,
        "complete": "export" in results,
        "best": results.get("export", {}).get("candidate"),
        "settings": settings.read_text(encoding="utf-8") if settings.is_file() else None,
        "databases": databases,
        "tables": tables,
        "rows": rows,
        "pairs": store.query(
            "select source, split, count(*) from pairs group by 1, 2 order by 1, 2"
        ),
        "templates": results.get("prepare", {}).get("templates"),
        "shared": results.get("prepare", {}).get("shared with evaluation"),
    }


# -- models -------------------------------------------------------------------------------------


def pool(store: Store) -> list[dict[str, Any]]:
    """The candidates, each below the one it was trained from, with its depth in that tree."""
    finished = list(_results(store))
    candidates = sorted(store.candidates(), key=lambda c: finished.index(c.stage))
    known = {candidate.id for candidate in candidates}
    children: dict[str | None, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        children[candidate.parent if candidate.parent in known else None].append(candidate)
    rows: list[dict[str, Any]] = []

    def descend(parent: str | None, depth: int) -> None:
        for c in children[parent]:
            share = accuracy([i < c.ranking_right for i in range(c.ranking_total)])
            rows.append({"id": c.id, "parent": c.parent, "depth": depth, "accuracy": share})
            descend(c.id, depth + 1)

    descend(None, 0)
    return rows


def curves(store: Store) -> list[dict[str, Any]]:
    """Training curves of each stage: its loss, and for preferences margin and ranking accuracy."""
    stages = []
    for stage in _results(store):
        panels = []
        for name in CURVES:
            series = [(s, v) for s, v in store.metric_series(stage, name) if math.isfinite(v)]
            if len(series) > 1:
                panels.append({"name": name, **_curve(series)})
        if panels:
            stages.append({"stage": stage, "panels": panels})
    return stages


def _curve(series: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Points of a curve in a box 100 wide and 100 high, as they are and smoothed."""
    steps = [step for step, _ in series]
    values = [value for _, value in series]
    reach = len(values) // SMOOTHING // 2
    smooth = []
    for i in range(len(values)):
        window = values[max(0, i - reach) : i + reach + 1]
        smooth.append(sum(window) / len(window))
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def points(line: Sequence[float]) -> str:
        return " ".join(
            f"{100 * (step - steps[0]) / (steps[-1] - steps[0]):.1f},"
            f"{100 * (1 - (value - low) / span):.1f}"
            for step, value in zip(steps, line, strict=True)
        )

    return {
        "raw": points(values),
        "smooth": points(smooth),
        "data": " ".join(f"{step}:{value:.4g}" for step, value in series),
        "low": low,
        "high": high,
        "first": smooth[0],
        "last": smooth[-1],
        "from": steps[0],
        "to": steps[-1],
    }


# -- synthesis and self-play --------------------------------------------------------------------


def rounds(store: Store) -> list[dict[str, Any]]:
    """What each round of VBI-FT synthesized, what it rejected, and how its model answered."""
    results = _results(store)
    shown = []
    for stage in sorted(results, key=_natural):
        match = re.fullmatch(r"vbi_(\d+)_synthesize", stage)
        if not match:
            continue
        pairs = store.pairs(stage=stage)
        # Spread over the round, so that one database or template does not fill the list.
        sample = _spread(pairs, PAIRS_PER_ROUND)
        feedback = results.get(f"vbi_{match[1]}_feedback", {})
        shown.append(
            {
                "number": int(match[1]),
                "queries": results[stage].get("queries"),
                "pairs": len(pairs),
                "splits": sorted(Counter(pair.split for pair in pairs).items()),
                "rejections": store.query(
                    "select step, cause, count from rejections where stage = ?"
                    " order by step desc, count desc, cause",
                    (stage,),
                ),
                "examples": sample,
                "writers": question_checks(results[stage], pairs),
                "feedback": feedback.get("feedback accuracy"),
                "ranking": feedback.get("ranking accuracy"),
            }
        )
    return shown


def question_checks(result: dict[str, Any], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Who wrote a round's questions: pairs kept, and the share that passes each check."""
    kept = Counter(pair.checks.get("writer") for pair in pairs)
    return [
        {
            "writer": writer,
            "kept": kept[writer],
            "shares": [(check, passed / made, made) for check, (passed, made) in checks.items()],
        }
        for writer, checks in result.get("question checks", {}).items()
    ]


def plays(store: Store) -> list[dict[str, Any]]:
    """Who played whom in each iteration of self-play and of the preference baselines."""
    results = _results(store)
    shown = []
    for stage in sorted(results, key=_natural):
        match = re.fullmatch(r"(self_play|spin|exspin|dpo)_(\d+)_answers", stage)
        if not match:
            continue
        system, number = match[1], int(match[2])
        played, trained = results[stage], results.get(f"{system}_{number}_train", {})
        judged = results.get(played.get("answers", stage), {})
        right, wrong = judged.get("right"), judged.get("wrong")
        margin = store.metric_series(f"{system}_{number}_train", "margin")
        shown.append(
            {
                "system": system,
                "number": number,
                "main": played.get("main"),
                "opponent": played.get("opponent"),
                "right": right,
                "wrong": wrong,
                "unjudged": judged.get("unjudged"),
                "share": right / (right + wrong) if right is not None and right + wrong else None,
                "pairs": trained.get("pairs"),
                "margin": (margin[0][1], margin[-1][1]) if margin else None,
                "ranking": trained.get("ranking accuracy"),
            }
        )
    return shown


# -- answers ------------------------------------------------------------------------------------


def answer_kinds(answers: dict[str, dict[str, Answer]]) -> list[tuple[str, dict[str, int]]]:
    """(kind of answer, count by system), right answers first, then by how often they occur."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for system, given in answers.items():
        for answer in given.values():
            counts[_kind(answer)][system] += 1
    order = sorted(counts, key=lambda kind: (kind != "right", -counts[kind].total(), kind))
    return [(kind, dict(counts[kind])) for kind in order]


def _kind(answer: Answer) -> str:
    if answer.verdict == "right":
        return "right"
    kind = STATUS_NAMES.get(answer.status, answer.status)
    if answer.status in ("ok", "empty"):
        # The judge's reason up to its colon; what follows are the numbers of one answer.
        reason = answer.message.partition(":")[0]
        kind = "wrong result" if answer.verdict == "wrong" else ""
        reason = "no rows" if kind and answer.status == "empty" else reason
        kind = ": ".join(part for part in (kind, reason) if part)
    return f"unjudged: {kind}" if answer.verdict == "unjudged" else kind


def by_database(
    store: Store, split: str, answers: dict[str, dict[str, Answer]]
) -> list[tuple[str, int, dict[str, float]]]:
    """(database, questions, accuracy by system) over the judged answers."""
    pairs: dict[str, list[str]] = defaultdict(list)
    for pair in store.pairs(stage="prepare", split=split):
        pairs[pair.database].append(pair.id)
    rows = []
    for database, ids in sorted(pairs.items()):
        shares = {}
        for system, given in answers.items():
            verdicts = [given[i].verdict for i in ids if i in given]
            judged = [verdict for verdict in verdicts if verdict != "unjudged"]
            if judged:
                shares[system] = judged.count("right") / len(judged)
        rows.append((database, len(ids), shares))
    return rows


def examples(
    store: Store, split: str, answers: dict[str, dict[str, Answer]]
) -> list[dict[str, Any]]:
    """Questions with their gold and the systems' answers; equal answers are shown once."""
    shown = []
    for pair in _spread(store.pairs(stage="prepare", split=split), EXAMPLES):
        given = {system: by[pair.id] for system, by in answers.items() if pair.id in by}
        if not given:
            continue
        alike: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
        for system, a in given.items():
            alike[a.sql, a.verdict, STATUS_NAMES.get(a.status, a.status), a.message].append(system)
        verdicts = {system: answer.verdict for system, answer in given.items()}
        shown.append({"pair": pair, "verdicts": verdicts, "answers": list(alike.items())})
    return shown


# -- time and what was left out -----------------------------------------------------------------


def times(store: Store) -> list[tuple[str, float]]:
    """(stage, seconds) in the order of finishing."""
    return list(store.seconds().items())


def time_by_part(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds by part of the run, in the order of a run."""
    parts = {
        "preparation": r"prepare",
        "base": r"base",
        "SQL-to-Text": r"sql_to_text_\d+",
        "synthesis": r"vbi_\d+_synthesize",
        "VBI-FT": r"vbi_\d+_(train|feedback)",
        "self-play": r"self_play_.*",
        "evaluation": r"evaluate_.*",
        "export": r"export",
        "baselines": r".*",
    }
    sums = dict.fromkeys(parts, 0.0)
    for stage, spent in seconds.items():
        sums[next(part for part, form in parts.items() if re.fullmatch(form, stage))] += spent
    return {part: spent for part, spent in sums.items() if spent}


def excluded(store: Store) -> dict[str, Any]:
    """Pairs that could not be used: counted by cause, and the first of them one by one."""
    return {
        "causes": store.query(
            "select cause, split, count(*) from excluded_pairs group by cause, split"
            " order by count(*) desc, cause, split"
        ),
        "rows": store.query(
            "select id, database, split, cause, message from excluded_pairs order by cause, id"
            f" limit {EXCLUDED}"
        ),
    }


def dropped(store: Store) -> list[tuple[Any, ...]]:
    """(stage, step, cause, count) of what stages other than synthesis left out."""
    return store.query(
        "select stage, step, cause, count from rejections where step not in ('sql', 'question')"
        " order by stage, count desc"
    )


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced."""
    step = max(1.0, len(items) / count)
    return [items[int(i * step)] for i in range(min(count, len(items)))]


def _natural(name: str) -> tuple[str | int, ...]:
    """Sorts `vbi_10` after `vbi_2`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
