"""Scores answers to a benchmark: `python -m spftcore.evaluate dev.json --predictions FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from spftcore.benchmarks import Benchmark, read_benchmark
from spftcore.config import OptionParser
from spftcore.errors import SpftError, UsageError
from spftcore.metrics.evaluation import Judging, evaluate, write_evaluation
from spftcore.metrics.predictions import Answers, read_answers
from spftcore.metrics.scoring import METRICS, Metric, default_metrics
from spftcore.metrics.tables import print_summary


def parser() -> OptionParser:
    """The command line."""
    options = OptionParser(
        prog="python -m spftcore.evaluate", description=__doc__, allow_abbrev=False
    )
    options.add_argument(
        "questions",
        type=Path,
        help="Spider's, BIRD's or your own file of questions with golds (JSON, JSONL, or lines of "
        "SQL<TAB>database)",
    )
    options.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="one SQL a line, SQL<TAB>database, JSON, JSONL, or BIRD's JSON object",
    )
    options.add_argument(
        "--databases",
        type=Path,
        metavar="DIR",
        help="folder of <id>/<id>.sqlite or <id>.sqlite; default: beside the questions",
    )
    options.add_argument(
        "--metrics",
        metavar="A,B",
        help=f"of {', '.join(METRICS)}; default: what the benchmark is usually judged by",
    )
    options.add_argument(
        "--families",
        type=Path,
        metavar="DIR",
        help="families or official test suites, <id>/*.sqlite, for ts",
    )
    options.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for scores.jsonl and summary.json; default: "
        "evaluations/<questions>/<predictions>",
    )
    options.add_argument(
        "--threads", type=int, default=0, metavar="N", help="default: one per core"
    )
    return options


def chosen_metrics(
    given: str | None, benchmark: Benchmark, families: Path | None
) -> tuple[Metric, ...]:
    """The metrics asked for, in the order of `METRICS`.

    Raises:
        UsageError: one is unknown.
    """
    if given is None:
        return default_metrics(benchmark, families)
    names = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UsageError(
            f"Unknown metric {unknown[0] if unknown else given!r}; there are {', '.join(METRICS)}."
        )
    return tuple(name for name in METRICS if name in names)


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Reads, scores, prints and writes."""
    benchmark = read_benchmark(arguments.questions, arguments.databases)
    if arguments.predictions is None:
        raise UsageError("Name the answers with --predictions FILE.")
    answers = read_answers(arguments.predictions, benchmark)
    metrics = chosen_metrics(arguments.metrics, benchmark, arguments.families)
    judging = Judging(metrics, arguments.families, arguments.threads)
    evaluation = evaluate(benchmark, answers.answers, judging)
    output = arguments.output or (
        Path("evaluations") / benchmark.path.stem / arguments.predictions.stem
    )
    system = {"predictions": str(arguments.predictions), "stripped": answers.stripped}
    write_evaluation(output, evaluation, benchmark, judging, system)
    print_summary(console, evaluation.summary)
    _print_stripped(console, answers)
    console.print(f"Scores: {output}", highlight=False, markup=False)


def _print_stripped(console: Console, answers: Answers) -> None:
    if answers.stripped:
        counts = ", ".join(f"{what} {n:,}" for what, n in answers.stripped.items())
        console.print(f"Stripped from the predictions: {counts}.", highlight=False, markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0 (scored), 1 (bad input or stopped), 2 (usage)."""
    console, errors = Console(), Console(stderr=True)
    try:
        run(parser().parse(argv), console)
        return 0
    except SpftError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        errors.print("\nStopped; nothing was written.", highlight=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
