"""Scores answers to a benchmark: `python -m spftcore.evaluate dev.json --predictions FILE`, or
those of a model that is asked first: `python -m spftcore.evaluate dev.json --model runs/NAME`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from spftcore.benchmarks import Benchmark, read_benchmark
from spftcore.config import OptionParser
from spftcore.errors import SpftError, UsageError
from spftcore.inference.options import add_model_options, model_given
from spftcore.metrics.efficiency import REPEATS
from spftcore.metrics.evaluation import SUMMARY, Judging, evaluate, write_evaluation
from spftcore.metrics.groups import GROUPS
from spftcore.metrics.predictions import Answer, read_answers
from spftcore.metrics.records import FILE
from spftcore.metrics.scoring import METRICS, Metric, Report, default_metrics
from spftcore.metrics.summary import DEFAULT_GROUPS
from spftcore.metrics.tables import print_summary
from spftcore.printable import printable
from spftcore.verify import Limits
from spftcore.verify.outcomes import DEFAULT_LIMITS

if TYPE_CHECKING:
    from spftcore.inference.predicting import Predictor


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
        "--by",
        metavar="A,B",
        default=",".join(DEFAULT_GROUPS),
        help=f"tables by {', '.join(GROUPS)} (default: %(default)s; summary.json has all)",
    )
    options.add_argument(
        "--no-stability", action="store_true", help="do not probe golds for ties and the like"
    )
    options.add_argument(
        "--repeats",
        type=int,
        default=REPEATS,
        metavar="N",
        help="timed runs of each right answer, for ves and r_ves (default: %(default)s)",
    )
    options.add_argument(
        "--steps",
        type=int,
        default=DEFAULT_LIMITS.steps,
        metavar="N",
        help=f"SQLite steps per query (default: {DEFAULT_LIMITS.steps:,})",
    )
    options.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_LIMITS.seconds,
        metavar="S",
        help="seconds per query; what they stop is not judged "
        f"(default: {DEFAULT_LIMITS.seconds:g})",
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
    """The metrics asked for, in the order of `METRICS`. Raises UsageError: one is unknown."""
    if given is None:
        return default_metrics(benchmark, families)
    names = _listed(given, METRICS, "metric")
    return tuple(name for name in METRICS if name in names)


def _listed(given: str, known: Sequence[str], what: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"Unknown {what} '{name}'; there are {', '.join(known)}.")
    if not names:
        raise UsageError(f"No {what} is named; there are {', '.join(known)}.")
    return names


def run(arguments: argparse.Namespace, console: Console, errors: Console) -> None:
    """Reads, scores, prints and writes."""
    if (arguments.predictions is None) is (arguments.model is None):
        raise UsageError("Name the answers with --predictions FILE, or who is asked with --model.")
    if arguments.model is None and (len(arguments.questions) > 1 or arguments.resume):
        raise UsageError("Several files of questions, and --resume, need --model.")
    if len({path.stem for path in arguments.questions}) < len(arguments.questions):
        raise UsageError(
            "Two files of questions have the same name, and so would their folders. Evaluate them "
            "one by one, each with its --output."
        )
    if arguments.repeats < 1:
        raise UsageError(f"--repeats must be at least 1, not {arguments.repeats}.")
    if arguments.families is not None and not arguments.families.is_dir():
        raise SpftError(
            f"The folder of families {arguments.families} does not exist. Name with --families a "
            "folder that holds <id>/*.sqlite files."
        )
    by = _listed(arguments.by, tuple(GROUPS), "group")
    benchmarks = [read_benchmark(path, arguments.databases) for path in arguments.questions]
    predictor = None
    if arguments.model is not None:
        from spftcore.inference.predicting import Predictor  # loads PyTorch, which takes seconds

        predictor = Predictor(*model_given(arguments))
    try:
        for benchmark in benchmarks:
            if len(benchmarks) > 1:
                console.print()
                _say(console, str(benchmark.path))
            _run_one(arguments, benchmark, predictor, by, console, errors)
    finally:
        if predictor is not None:
            predictor.close()


def _run_one(
    arguments: argparse.Namespace,
    benchmark: Benchmark,
    predictor: Predictor | None,
    by: Sequence[str],
    console: Console,
    errors: Console,
) -> None:
    from spftcore.evaluation_page import PAGE, explained, write_page  # loads the SQL parser

    judging = Judging(
        metrics=chosen_metrics(arguments.metrics, benchmark, arguments.families),
        families=arguments.families,
        threads=arguments.threads,
        limits=Limits(steps=arguments.steps, seconds=arguments.seconds),
        stability=not arguments.no_stability,
        repeats=arguments.repeats,
    )
    name = arguments.predictions.stem if predictor is None else predictor.source.name
    output = arguments.output or Path("evaluations") / benchmark.path.stem / name
    if arguments.output and len(arguments.questions) > 1:
        output = arguments.output / benchmark.path.stem
    written = [output / name for name in (FILE, SUMMARY, PAGE)]
    _refuse_own_input(written, [*arguments.questions, arguments.predictions])
    answers: Sequence[Answer]
    with _progress(errors) as report:
        if predictor is None:
            read = read_answers(arguments.predictions, benchmark)
            answers, notes, heading = read.answers, read.stripped, "Stripped from the predictions"
            system = {"predictions": str(arguments.predictions), "stripped": read.stripped}
        else:
            found = predictor.predict(benchmark, output, resume=arguments.resume, report=report)
            answers, notes, heading = found.answers, found.notes, "Asking"
            system = predictor.system() | {"seconds": round(found.seconds, 2), "kept": found.kept}
        evaluation = explained(evaluate(benchmark, answers, judging, report), benchmark, judging)
    write_evaluation(output, evaluation, benchmark, judging, system)
    page = write_page(output, evaluation, benchmark, judging, name)
    print_summary(console, evaluation.summary, by)
    if notes:
        counts = ", ".join(f"{what} {n:,}" for what, n in notes.items())
        _say(console, f"{heading}: {counts}.")
    _say(console, f"Scores: {output}")
    if page is not None:
        _say(console, f"Questions and mistakes: {page}")


def _refuse_own_input(written: Sequence[Path], given: Sequence[Path | None]) -> None:
    """Raises UsageError where an evaluation's file would take the place of what it is made of."""
    for path in given:
        if path is not None and any(w.exists() and w.samefile(path) for w in written):
            raise UsageError(
                f"{path} would be replaced by the evaluation of it. Choose another folder with "
                "--output."
            )


def _say(console: Console, text: str) -> None:
    """A line as it is: paths and what a model said may hold anything."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _progress(errors: Console) -> Iterator[Report]:
    """A bar for what is being done, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=errors, transient=True, disable=not errors.is_terminal
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0 (scored), 1 (bad input or stopped), 2 (usage)."""
    console, errors = Console(), Console(stderr=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        run(parser().parse(argv), console, errors)
        return 0
    except SpftError as error:
        text = escape(printable(str(error)))
        errors.print(f"[bold red]Error:[/] {text}", highlight=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        errors.print(
            "\nStopped. What a model has answered is kept: go on with --resume.", highlight=False
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
