"""Judges SQL files by running them: `python -m spftcore.verify pairs.jsonl --databases DIR`.

The pairs hold the gold queries and may hold the answers (`prediction`, `predictions` or
`candidates`); or the answers come with --predictions. Without answers, the golds alone are run.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spftcore.config import OptionParser
from spftcore.database_files import database_files
from spftcore.errors import SpftError, UsageError
from spftcore.verify import Executor, Limits
from spftcore.verify.families import family_of
from spftcore.verify.outcomes import DEFAULT_LIMITS
from spftcore.verify.records import Item, read_items
from spftcore.verify.report import (
    OutcomeFile,
    Tally,
    answer_record,
    gold_record,
    print_answers,
    print_cost,
    print_golds,
)
from spftcore.verify.stability import Stability, stable

COMPARISONS = ("bag", "spider", "bird", "soft_f1")

# A batch is large enough that its last queries do not idle the other threads for long, and small
# enough that a file of any length is judged in bounded memory.
BATCH_PAIRS = 8192
BATCH_CHARACTERS = 16 << 20


def parser() -> OptionParser:
    """The command line."""
    options = OptionParser(
        prog="python -m spftcore.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    files = options.add_argument_group("files")
    files.add_argument(
        "pairs",
        type=Path,
        help="JSONL or a JSON list, Spider's and BIRD's own files included, or lines of "
        "SQL<TAB>database",
    )
    files.add_argument(
        "--databases",
        type=Path,
        metavar="DIR",
        required=True,
        help="folder of <id>.sqlite or <id>/<id>.sqlite",
    )
    files.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="JSONL of id, database, sql, samples; or one SQL a line, as Spider has it; or "
        "BIRD's JSON object",
    )
    files.add_argument(
        "--families",
        type=Path,
        metavar="DIR",
        help="judge on the variants of each database too: <id>/*.sqlite in this folder",
    )
    files.add_argument(
        "--output", type=Path, metavar="FILE", help="write one JSON object per answer to this file"
    )
    judging = options.add_argument_group("judging")
    judging.add_argument("--compare", choices=COMPARISONS, default="bag", help="default: bag")
    judging.add_argument(
        "--stable",
        action="store_true",
        help="probe whether each gold's result hangs on ties and the like; such pairs stay "
        "unjudged",
    )
    judging.add_argument(
        "--skip-missing",
        action="store_true",
        help="leave out pairs whose database is not there, and say how many",
    )
    running = options.add_argument_group("running")
    running.add_argument(
        "--threads", type=int, default=0, metavar="N", help="default: one per core"
    )
    running.add_argument(
        "--steps",
        type=int,
        default=DEFAULT_LIMITS.steps,
        metavar="N",
        help=f"SQLite steps per query (default: {DEFAULT_LIMITS.steps:,})",
    )
    running.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_LIMITS.seconds,
        metavar="S",
        help="seconds per query; what they stop stays unjudged "
        f"(default: {DEFAULT_LIMITS.seconds:g})",
    )
    running.add_argument(
        "--isolation",
        choices=("thread", "process"),
        default="thread",
        help="process: survive a crash inside SQLite (default: thread)",
    )
    return options


class Source:
    """The pairs to judge, read anew at each pass, with the files of their databases."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._pairs: Path = arguments.pairs
        self._predictions: Path | None = arguments.predictions
        self._folder: Path = arguments.databases
        self._families: Path | None = arguments.families
        self._skip_missing: bool = arguments.skip_missing
        if not self._folder.is_dir():
            raise SpftError(
                f"The folder of databases {self._folder} does not exist. Name with --databases a "
                "folder that holds <id>.sqlite or <id>/<id>.sqlite files."
            )
        for path in filter(None, (self._pairs, self._predictions)):
            if path.exists() and not path.is_file():
                raise SpftError(
                    f"{path} is not a regular file. It is read twice, so give a file, not a folder "
                    "or a pipe."
                )
        self.paths: Mapping[str, Path] = dict(database_files(self._folder))

    def items(self) -> Iterator[Item]:
        """The pairs whose database is there.

        Raises:
            SpftError: as `read_items` does, or a database is missing and may not be.
        """
        for item in self._all():
            if item.database in self.paths:
                yield item
            elif not self._skip_missing:
                raise SpftError(
                    f"Pair '{item.id}' ({item.place}) is on the database '{item.database}', which "
                    f"the folder {self._folder} does not hold. Add the file, or leave such pairs "
                    "out with --skip-missing."
                )

    def check(self) -> tuple[int, int, bool]:
        """Reads everything once, so that a mistake on the last line costs no time.

        Returns:
            (pairs to judge, pairs left out, whether there are answers).

        Raises:
            SpftError: as `items` does, no pair is left, or a database has no family.
        """
        count = 0
        used = set()
        for item in self.items():
            count += 1
            used.add(item.database)
        if self._families is not None:
            for database in sorted(used):
                family_of(self._families, self.paths[database])
        left_out = sum(1 for _ in self._all()) - count if self._skip_missing else 0
        first = next(self.items(), None)
        if first is None:
            raise SpftError(
                f"No pair of {self._pairs} is on a database of {self._folder}. Check --databases."
            )
        return count, left_out, bool(first.answers)

    def batches(self) -> Iterator[list[Item]]:
        """The pairs in batches of bounded size."""
        batch: list[Item] = []
        characters = 0
        for item in self.items():
            batch.append(item)
            characters += len(item.gold) + sum(map(len, item.answers))
            if len(batch) >= BATCH_PAIRS or characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
        if batch:
            yield batch

    def _all(self) -> Iterator[Item]:
        return read_items(self._pairs, self._predictions, self.paths)


def judge(
    executor: Executor,
    source: Source,
    arguments: argparse.Namespace,
    answers: bool,
    tally: Tally,
    progress: Progress,
    total: int,
) -> float:
    """Runs everything, counts it in `tally` and writes the outcomes.

    Returns:
        Seconds spent inside the executor.
    """
    on: Literal["file", "family"] = "family" if arguments.families else "file"
    seconds = 0.0
    task = progress.add_task("judging", total=total)
    with OutcomeFile(arguments.output) if arguments.output else nullcontext() as output:
        if output:
            output.begin()
        for batch in source.batches():
            records: Iterable[dict[str, Any]]
            start = time.perf_counter()
            golds = [(source.paths[item.database], item.gold) for item in batch]
            stability = stable(executor, golds) if arguments.stable else []
            one_each: Sequence[Stability | None] = stability or [None] * len(batch)
            if answers:
                asked = [(*gold, item.answers) for gold, item in zip(golds, batch, strict=True)]
                judged = executor.verify(asked, compare=arguments.compare, on=on)
                seconds += time.perf_counter() - start
                tally.add_answers(batch, judged, stability)
                records = (
                    answer_record(item, number, judgement, known)
                    for item, judgements, known in zip(batch, judged, one_each, strict=True)
                    for number, judgement in enumerate(judgements)
                )
            else:
                outcomes = executor.execute(golds)
                seconds += time.perf_counter() - start
                tally.add_golds(batch, outcomes, stability)
                records = map(gold_record, batch, outcomes, one_each)
            if output:
                output.write(records)
            progress.advance(task, len(batch))
    return seconds


def run(arguments: argparse.Namespace, console: Console, errors: Console, tally: Tally) -> None:
    """Checks the input, judges it and prints the result."""
    _check_arguments(arguments)
    source = Source(arguments)
    total, left_out, answers = source.check()
    limits = Limits(steps=arguments.steps, seconds=arguments.seconds)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Executor(
            threads=arguments.threads,
            limits=limits,
            families=arguments.families,
            isolation=arguments.isolation,
        ) as executor,
        Progress(
            *columns,
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        ) as progress,
    ):
        seconds = judge(executor, source, arguments, answers, tally, progress, total)
        counters, threads = executor.counters, executor.threads
    if answers:
        print_answers(console, tally, arguments.compare)
    else:
        print_golds(console, tally)
    if left_out:
        console.print(
            f"Left out, their database not being in {arguments.databases}: {left_out:,}.",
            highlight=False,
            markup=False,
        )
    print_cost(console, tally, seconds, threads, counters)
    if arguments.output:
        console.print(f"Outcomes: {arguments.output}", highlight=False, markup=False)


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        for given in (arguments.pairs, arguments.predictions):
            if given is not None and given.exists() and _same(given, arguments.output):
                raise UsageError(
                    f"--output would overwrite {given}, which is read. Choose another file."
                )
    if arguments.families is not None and not arguments.families.is_dir():
        raise SpftError(
            f"The folder of families {arguments.families} does not exist. Name with --families a "
            "folder that holds <id>/*.sqlite files."
        )


def _same(first: Path, second: Path) -> bool:
    return second.exists() and first.samefile(second)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0 (judged), 1 (bad input or stopped), 2 (usage)."""
    console, errors = Console(), Console(stderr=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    tally = Tally()
    try:
        run(parser().parse(argv), console, errors, tally)
        return 0
    except SpftError as error:
        text = f"[bold red]Error:[/] {escape(str(error))}"
        errors.print(text, highlight=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        errors.print(
            f"\nStopped after {tally.pairs:,} pairs; no outcomes were written.", highlight=False
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
