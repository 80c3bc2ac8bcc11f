"""From answers to a folder: scores them, sums them up, writes `scores.jsonl` and `summary.json`."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw

from spftcore.benchmarks import Benchmark
from spftcore.errors import SpftError
from spftcore.metrics import records
from spftcore.metrics.efficiency import REPEATS
from spftcore.metrics.predictions import Answer
from spftcore.metrics.records import Scored
from spftcore.metrics.scoring import Metric, Report, nobody, score
from spftcore.metrics.summary import Summary, as_json, summarise
from spftcore.verify import Executor, Limits
from spftcore.verify.outcomes import DEFAULT_LIMITS

SUMMARY = "summary.json"  # in an evaluation's folder
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Judging:
    """How answers are judged.

    Attributes:
        metrics: of `METRICS`.
        families: folder of families or test suites, for `ts`.
        threads: 0 for one per core; results do not depend on it.
        limits: bounds on each query.
        stability: probe golds for ties and the like.
        repeats: timed runs, for `ves` and `r_ves`.
    """

    metrics: tuple[Metric, ...]
    families: Path | None = None
    threads: int = 0
    limits: Limits = DEFAULT_LIMITS
    stability: bool = True
    repeats: int = REPEATS


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was found about a system's answers to a benchmark."""

    scored: tuple[Scored, ...]
    summary: Summary


def evaluate(
    benchmark: Benchmark, answers: Sequence[Answer], judging: Judging, report: Report = nobody
) -> Evaluation:
    """Scores one answer per question, in the order of the questions.

    Args:
        report: called now and then with what is being done, and how much of how much of it is.

    Raises:
        SpftError: as `score` does, or no question can be judged.
    """
    with Executor(
        threads=judging.threads, limits=judging.limits, families=judging.families
    ) as executor:
        scored = score(
            benchmark,
            answers,
            executor,
            judging.metrics,
            families=judging.families,
            stability=judging.stability,
            repeats=judging.repeats,
            report=report,
        )
    summary = summarise(scored, judging.metrics)
    if not summary.counted:
        causes = ", ".join(f"{cause}: {n:,}" for cause, n in summary.excluded.items())
        raise SpftError(
            f"None of the {summary.questions:,} questions of {benchmark.path} can be judged "
            f"({causes}). Check --databases."
        )
    return Evaluation(tuple(scored), summary)


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    benchmark: Benchmark,
    judging: Judging,
    system: Mapping[str, Any],
) -> None:
    """Writes `scores.jsonl` and `summary.json` into a folder, which is made if need be; an earlier
    evaluation's are replaced.

    Args:
        system: what was evaluated: the file of predictions, or the model and how it was asked.

    Raises:
        SpftError: the folder cannot be written to.
    """
    summary = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": dict(system),
        "benchmark": {"kind": benchmark.kind, "questions": str(benchmark.path)},
        "settings": {
            "metrics": list(judging.metrics),
            "families": None if judging.families is None else str(judging.families),
            "stability": judging.stability,
            "repeats": judging.repeats,
            "limits": asdict(judging.limits),
        },
        "versions": {
            "spftcore": version("spftcore"),
            "sqlite": apsw.sqlite_lib_version(),
            "python": platform.python_version(),
        },
        **as_json(evaluation.summary),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        records.write_scores(folder / records.FILE, evaluation.scored)
        partial = folder / (SUMMARY + ".partial")
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        partial.write_text(text, "utf-8", errors="backslashreplace")
        partial.replace(folder / SUMMARY)
    except OSError as error:
        raise SpftError(
            f"Cannot write the evaluation to {folder}: {error.strerror}. Choose another place "
            "with --output."
        ) from None
