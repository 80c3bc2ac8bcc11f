"""Scores answers to a benchmark: `python -m spftcore.evaluate dev.json --predictions FILE`, or
those of a model that is asked first: `python -m spftcore.evaluate dev.json --model runs/NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spftcore.benchmarks import Benchmark, read_benchmark
from spftcore.config import OptionParser
from spftcore.errors import SpftError, UsageError
from spftcore.inference.options import add_model_options, model_given
from spftcore.metrics.evaluation import Judging, evaluate, write_evaluation
from spftcore.metrics.predictions import Answer, read_answers
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
        nargs="+",
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
        "evaluations/<questions>/<predictions or model>; with several files of questions, a folder "
        "in it for each",
    )
    options.add_argument(
        "--threads", type=int, default=0, metavar="N", help="default: one per core"
    )
    add_model_options(options, required=False)
    options.add_argument(
        "--resume",
        action="store_true",
        help="go on with the answers of a model that are in --output already",
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


def run(arguments: argparse.Namespace, console: Console, errors: Console) -> None:
    """Reads, scores, prints and writes."""
    if (arguments.predictions is None) is (arguments.model is None):
        raise UsageError("Name the answers with --predictions FILE, or who is asked with --model.")
    if arguments.model is None and (len(arguments.questions) > 1 or arguments.resume):
        raise UsageError("Several files of questions, and --resume, need --model.")
    names = [path.stem for path in arguments.questions]
    if len(set(names)) < len(names):
        raise UsageError(
            "Two files of questions have the same name, and so would their folders. Evaluate them "
            "one by one, each with its --output."
        )
    benchmarks = [read_benchmark(path, arguments.databases) for path in arguments.questions]
    predictor = None
    if arguments.model is not None:
        from spftcore.inference.predicting import Predictor  # loads PyTorch, which takes seconds

        predictor = Predictor(*model_given(arguments))
    for benchmark in benchmarks:
        if len(benchmarks) > 1:
            console.print(f"\n{benchmark.path}", highlight=False, markup=False)
        metrics = chosen_metrics(arguments.metrics, benchmark, arguments.families)
        judging = Judging(metrics, arguments.families, arguments.threads)
        name = arguments.predictions.stem if predictor is None else predictor.source.name
        output = arguments.output or Path("evaluations") / benchmark.path.stem / name
        if arguments.output and len(benchmarks) > 1:
            output = arguments.output / benchmark.path.stem
        answers: Sequence[Answer]
        if predictor is None:
            read = read_answers(arguments.predictions, benchmark)
            answers, notes = read.answers, read.stripped
            system = {"predictions": str(arguments.predictions), "stripped": read.stripped}
            heading = "Stripped from the predictions"
        else:
            with _progress(errors) as report:
                found = predictor.predict(benchmark, output, resume=arguments.resume, report=report)
            answers, notes, heading = found.answers, found.notes, "Asking"
            system = predictor.system() | {"seconds": round(found.seconds, 2), "kept": found.kept}
        evaluation = evaluate(benchmark, answers, judging)
        write_evaluation(output, evaluation, benchmark, judging, system)
        print_summary(console, evaluation.summary)
        if notes:
            counts = ", ".join(f"{what} {n:,}" for what, n in notes.items())
            console.print(f"{heading}: {counts}.", highlight=False, markup=False)
        console.print(f"Scores: {output}", highlight=False, markup=False)


@contextmanager
def _progress(errors: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as progress:
        task = progress.add_task("asking", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0 (scored), 1 (bad input or stopped), 2 (usage)."""
    console, errors = Console(), Console(stderr=True)
    try:
        run(parser().parse(argv), console, errors)
        return 0
    except SpftError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        errors.print(
            "\nStopped; what a model has answered is kept: go on with --resume.", highlight=False
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
