"""Says which of two or more systems is better, by how much, where, and whether it is noise.

    python -m spftcore.compare A B [C ...]

Each is a folder or a scores.jsonl that `python -m spftcore.evaluate` wrote, a run (runs/NAME), or
one system of a run (runs/NAME:sft).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from spftcore.compare_text import print_comparison, print_pairs
from spftcore.config import OptionParser
from spftcore.errors import SpftError, UsageError
from spftcore.metrics import holm
from spftcore.metrics.features import features
from spftcore.metrics.hardness import hardness
from spftcore.metrics.paired import Paired, compare_scores
from spftcore.metrics.records import FILE, Scored, read_scores
from spftcore.printable import printable
from spftcore.report import default_split, open_run, system_answers
from spftcore.store import Store

# Tried in this order where no --metric is given: the benchmark's own comes before ours.
METRICS = ("spider", "bird", "bag")


@dataclass(frozen=True, slots=True)
class System:
    """One side of a comparison: what it is called, its scored questions, its main metric."""

    name: str
    scored: tuple[Scored, ...]
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A pair of systems compared.

    Attributes:
        first, second: the systems.
        paired: what the scores say.
        adjusted_p: p-value of the difference after Holm's correction over all pairs of systems.
    """

    first: System
    second: System
    paired: Paired
    adjusted_p: float


def read_system(text: str) -> System:
    """Reads what an argument of the command names.

    Raises:
        SpftError: it names nothing that holds scores, or a system the run has not evaluated.
    """
    path = Path(text)
    if path.is_dir() and (path / FILE).is_file():
        return System(text.rstrip("/"), tuple(read_scores(path / FILE)), _main_metric(path))
    if path.is_file():
        return System(text, tuple(read_scores(path)), _main_metric(path.parent))
    if path.is_dir() and (path / "run.sqlite").is_file():
        return _of_run(text.rstrip("/"), path, "")
    folder, colon, system = text.rpartition(":")
    if colon and (Path(folder) / "run.sqlite").is_file():
        return _of_run(text, Path(folder), system)
    if path.is_dir():
        raise SpftError(
            f"{text} holds neither {FILE} nor run.sqlite. Name a folder that `python -m "
            "spftcore.evaluate` or `python -m spftcore.train` has written."
        )
    raise SpftError(
        f"There is no {text}. Name an evaluation's folder, its {FILE}, a run such as runs/demo, or "
        "one system of a run such as runs/demo:sft."
    )


def _main_metric(folder: Path) -> str:
    """The metric that the evaluation states first; empty where it says nothing."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return str(summary["settings"]["metrics"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _of_run(name: str, folder: Path, system: str) -> System:
    store = open_run(folder)
    try:
        split = default_split(store)
        evaluated = system_answers(store, split)
        if not evaluated:
            raise SpftError(
                f"The run {folder} has evaluated no system yet. Go on with it: `python -m "
                "spftcore.train --resume`."
            )
        if system and system not in evaluated:
            raise SpftError(
                f"The run {folder} has no answers of '{system}'; there are {', '.join(evaluated)}."
            )
        chosen = system or list(evaluated)[-1]
        return System(
            name if system else f"{name}:{chosen}", tuple(_run_scores(store, chosen, split))
        )
    finally:
        store.close()


def _run_scores(store: Store, system: str, split: str) -> list[Scored]:
    answers = store.answers(f"evaluate_{system}", split)
    scored = []
    for pair in store.pairs(stage="prepare", split=split):
        answer = answers.get(pair.id)
        if answer is None:
            continue
        judged = answer.verdict != "unjudged"
        made_of = features(pair.sql)
        scored.append(
            Scored(
                id=pair.id,
                database=pair.database,
                question=pair.question,
                gold=pair.sql,
                sql=answer.sql,
                evidence=pair.evidence,
                hardness=hardness(pair.sql),
                clauses=made_of.clauses,
                joins=made_of.joins,
                status=answer.status,
                message=answer.message,
                scores={"bag": float(answer.verdict == "right")} if judged else {},
            )
        )
    return scored


def compare(systems: Sequence[System], metric: str | None = None) -> list[Result]:
    """Compares every pair of systems, in the order given.

    Args:
        systems: two or more.
        metric: a name in `Scored.scores`; None for the main metric that all have.

    Raises:
        UsageError: a metric that not all have.
        SpftError: the systems answered different benchmarks.
    """
    chosen = metric if metric is not None else _default_metric(systems)
    for system in systems:
        have = _metrics(system)
        if chosen not in have:
            raise UsageError(
                f"{system.name} has no scores of '{chosen}'; it has {', '.join(have) or 'none'}. "
                "Choose another --metric, or evaluate it again with that one."
            )
    pairs = list(itertools.combinations(systems, 2))
    results = []
    for a, b in pairs:
        try:
            results.append(compare_scores(a.scored, b.scored, chosen))
        except SpftError as error:
            raise SpftError(
                f"Cannot compare {a.name} (first) with {b.name} (second). {error}"
            ) from None
    adjusted = holm([result.difference.p for result in results])
    return [
        Result(a, b, paired, p) for (a, b), paired, p in zip(pairs, results, adjusted, strict=True)
    ]


def _metrics(system: System) -> list[str]:
    return sorted({name for one in system.scored for name in one.scores})


def _default_metric(systems: Sequence[System]) -> str:
    common = set.intersection(*(set(_metrics(system)) for system in systems))
    stated = [system.metric for system in systems if system.metric]
    for name in (*stated, *METRICS, *sorted(common)):
        if name in common:
            return name
    lists = "; ".join(f"{s.name}: {', '.join(_metrics(s)) or 'none'}" for s in systems)
    raise SpftError(f"There is no metric that all have scores of ({lists}).")


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The comparison as plain values; numbers that do not exist are null."""
    return [
        _plain(
            {
                "first_system": result.first.name,
                "second_system": result.second.name,
                "adjusted_p": result.adjusted_p,
                **asdict(result.paired),
            }
        )
        for result in results
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def parser() -> OptionParser:
    """The command's options."""
    options = OptionParser(
        prog="python -m spftcore.compare",
        description="Which system is better, by how much, where, and whether it is noise.",
    )
    options.add_argument(
        "systems",
        nargs="+",
        metavar="A",
        help="evaluation folder, scores.jsonl, runs/NAME[:SYSTEM]",
    )
    options.add_argument("--metric", help="what is compared (the evaluation's main metric)")
    options.add_argument("--json", action="store_true", help="print everything as JSON")
    options.add_argument(
        "--questions",
        type=int,
        default=3,
        metavar="N",
        help="questions shown that only one answers (3); 0 for none",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code (2: usage, 1: another error that has a remedy)."""
    try:
        given = parser().parse(argv)
        if len(given.systems) < 2:
            raise UsageError("Name two systems or more: python -m spftcore.compare A B.")
        results = compare([read_system(text) for text in given.systems], given.metric)
        if given.json:
            print(json.dumps(to_json(results), indent=1))  # ASCII: ids may hold half a surrogate
        elif len(results) == 1:
            print_comparison(results[0], given.questions, Console())
        else:
            print_pairs(results, Console())
    except SpftError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
