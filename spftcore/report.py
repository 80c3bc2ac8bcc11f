"""The result of a run for people: the table of accuracies, its sentence, and `report.html`.

    python -m spftcore.report runs/NAME     rewrites the report and prints the table

Everything is read from the run store, so both work on a run that is not finished.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from rich import box
from rich.console import Console
from rich.table import Table

from spftcore import report_data
from spftcore.config import OptionParser
from spftcore.errors import SpftError, UsageError
from spftcore.metrics import Accuracy, Comparison, accuracy, mcnemar
from spftcore.report_data import SYSTEM_NAMES
from spftcore.store import Answer, Store

REPORT = "report.html"
SIGNIFICANCE = 0.05  # a difference with a larger p-value is called noise
RAN = ("ok", "empty")  # statuses of SQL that ran to its end
COMPARED = (("vbi", "sft"), ("self_play", "sft"), ("self_play", "vbi"), ("spin", "sft"))


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system on one split of the held-out questions.

    Attributes:
        system: its key in `SYSTEM_NAMES`.
        split: `test` or `dev`.
        accuracy: execution accuracy of the judged answers, with its 95 % Wilson interval.
        against_sft: McNemar's test against SFT on the questions judged for both; None for SFT
            itself and where SFT has no answers.
        unjudged: answers of which nothing is known; they count neither as right nor as wrong.
        valid: share of all answers whose SQL runs.
        verdicts: whether the answer is right, by pair; judged answers only.
    """

    system: str
    split: str
    accuracy: Accuracy
    against_sft: Comparison | None
    unjudged: int
    valid: float
    verdicts: dict[str, bool] = field(repr=False)

    @property
    def name(self) -> str:
        return SYSTEM_NAMES[self.system]


def compare(first: SystemResult, second: SystemResult) -> tuple[float, Comparison]:
    """Two systems on the questions judged for both.

    Returns:
        (difference of their accuracies in points, positive if the first is better; McNemar's test).
    """
    return _compare(first.verdicts, second.verdicts)


def _compare(first: dict[str, bool], second: dict[str, bool]) -> tuple[float, Comparison]:
    both = sorted(first.keys() & second.keys())
    comparison = mcnemar([first[pair] for pair in both], [second[pair] for pair in both])
    return 100 * (comparison.gained - comparison.lost) / max(1, len(both)), comparison


def result_table(store: Store, split: str | None = None) -> list[SystemResult]:
    """The evaluated systems, in the order of `SYSTEM_NAMES`.

    Args:
        store: of a run, finished or not; systems without answers are left out.
        split: `test` or `dev`; by default `test` if the run has test pairs, else `dev`.
    """
    split = split or default_split(store)
    answers = system_answers(store, split)
    verdicts = {
        system: {a.pair: a.verdict == "right" for a in given.values() if a.verdict != "unjudged"}
        for system, given in answers.items()
    }
    results = []
    for system, given in answers.items():
        against = None
        if system != "sft" and "sft" in verdicts:
            against = _compare(verdicts[system], verdicts["sft"])[1]
        results.append(
            SystemResult(
                system=system,
                split=split,
                accuracy=accuracy(list(verdicts[system].values())),
                against_sft=against,
                unjudged=len(given) - len(verdicts[system]),
                valid=sum(answer.status in RAN for answer in given.values()) / len(given),
                verdicts=verdicts[system],
            )
        )
    return results


def default_split(store: Store) -> str:
    """The split that results are stated on."""
    return "test" if store.pairs(stage="prepare", split="test") else "dev"


def system_answers(store: Store, split: str) -> dict[str, dict[str, Answer]]:
    """Answers by system and pair, of the systems that have any."""
    answers = {system: store.answers(f"evaluate_{system}", split) for system in SYSTEM_NAMES}
    return {system: given for system, given in answers.items() if given}


def verdict_sentence(results: Sequence[SystemResult]) -> str:
    """Says which differences between the systems are real at the 5 % level and which are noise."""
    if not results:
        return "No system has been evaluated yet."
    by_system = {result.system: result for result in results}
    parts = []
    for first, second in COMPARED:
        if first not in by_system or second not in by_system:
            continue
        a, b = by_system[first], by_system[second]
        points, test = compare(a, b)
        both = len(a.verdicts.keys() & b.verdicts.keys())
        # Otherwise the difference could not be read off the table, and has to say where it is from.
        where = (
            ""
            if both == a.accuracy.total == b.accuracy.total
            else (f" on the {both} questions judged for both")
        )
        size = f"{abs(points):.1f} points{where}"
        p = p_number(test.p) if test.p < 0.001 else f"= {p_number(test.p)}"
        if test.p < SIGNIFICANCE:
            side = "above" if points > 0 else "below"
            parts.append(f"{a.name} is {side} {b.name} by {size} (p {p})")
        else:
            parts.append(f"{a.name} and {b.name} differ by {size}, within noise (p {p})")
    if not parts:
        names = ", ".join(result.name for result in results)
        return f"No two of the systems to compare have been evaluated yet (only {names})."
    return "; ".join(parts) + "."


def _ranking_sentence(store: Store) -> str:
    """What is known of the candidates of a run that had no questions to evaluate on."""
    ranked = "; ".join(
        f"{candidate.id} {percent(candidate.ranking_accuracy)}" for candidate in store.candidates()
    )
    return (
        "The run had no questions to evaluate on (data.dev, data.test). On its synthesized ranking "
        f"set: {ranked}."
    )


def p_number(p: float) -> str:
    """`0.61`, `0.003` or `< 0.001`."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


# -- the terminal -------------------------------------------------------------------------------


def print_results(store: Store, console: Console) -> None:
    """Prints the table, the sentence, and where the time went."""
    results = result_table(store)
    if results:
        console.print(_rich_table(results))
    nothing_asked = "export" in store.finished() and not results
    sentence = _ranking_sentence(store) if nothing_asked else verdict_sentence(results)
    console.print(sentence, markup=False, highlight=False)
    groups = report_data.time_by_part(store.seconds())
    total = sum(groups.values())
    shares = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in groups.items())
    if total:
        console.print(f"Time: {shares}; {total:.0f} s in total.", markup=False, highlight=False)


def _rich_table(results: Sequence[SystemResult]) -> Table:
    any_unjudged = any(result.unjudged for result in results)
    table = Table(
        title=f"Execution accuracy ({results[0].split})", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("system", no_wrap=True, vertical="bottom")
    columns = ["right", "accuracy", "95 %\ninterval", "p against\nSFT", "SQL that\nruns"]
    for column in columns + ["unjudged"] * any_unjudged:
        table.add_column(column, justify="right", no_wrap=True)
    for r in results:
        cells = [
            f"{r.accuracy.right}/{r.accuracy.total}",
            percent(r.accuracy.share),
            f"{100 * r.accuracy.low:.1f}–{100 * r.accuracy.high:.1f}",
            p_number(r.against_sft.p) if r.against_sft else "",
            percent(r.valid),
        ]
        table.add_row(r.name, *cells, *[str(r.unjudged)] * any_unjudged)
    return table


def percent(share: float) -> str:
    """`0.4567` as `45.7 %`, not to be broken between lines; a share of nothing (NaN) as a dash."""
    return "–" if share != share else f"{100 * share:.1f}\u00a0%"


# -- the page -----------------------------------------------------------------------------------


def write_report(directory: Path) -> Path:
    """Writes the run's `report.html`: one file, without any external resource.

    Raises:
        SpftError: the directory is no run, or the file cannot be written.
    """
    store = open_run(directory)
    try:
        html = _render(directory, store)
    finally:
        store.close()
    path = directory / REPORT
    partial = path.with_suffix(".partial")
    try:
        # The old report stays until the new one is complete.
        partial.write_text(html, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise SpftError(
            f"Cannot write the report {path}: {error.strerror}. Make the folder writable, or free "
            f"some space, and repeat `python -m spftcore.report {directory}`."
        ) from None
    return path


def open_run(directory: Path) -> Store:
    """The store of a run.

    Raises:
        SpftError: the directory is no run.
    """
    path = directory / "run.sqlite"
    if not path.is_file():
        raise SpftError(
            f"{directory} is no run: it holds no run.sqlite. Give the folder that "
            "`python -m spftcore.train` wrote, for example runs/demo."
        )
    return Store(path)


def _render(directory: Path, store: Store) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # questions and SQL are written by users and models
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, p_number=p_number)
    split = default_split(store)
    tables = [result_table(store, name) for name in ("test", "dev")]
    tables = [results for results in tables if results]
    answers = system_answers(store, split)
    return environment.get_template("report.html.j2").render(
        # Only the page's own script carries the nonce, so no other would run even if it got in.
        nonce=secrets.token_hex(8),
        names=SYSTEM_NAMES,
        systems=list(answers),
        split=split,
        tables=[(results, verdict_sentence(results)) for results in tables],
        run=report_data.overview(directory, store),
        pool=report_data.pool(store),
        curves=report_data.curves(store),
        rounds=report_data.rounds(store),
        plays=report_data.plays(store),
        kinds=report_data.answer_kinds(answers),
        databases=report_data.by_database(store, split, answers),
        examples=report_data.examples(store, split, answers),
        held_out=len(store.pairs(stage="prepare", split=split)),
        times=report_data.times(store),
        excluded=report_data.excluded(store),
        dropped=report_data.dropped(store),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code (2: usage, 1: another error that has a remedy)."""
    parser = OptionParser(prog="python -m spftcore.report", description=(__doc__ or "")[:88])
    parser.add_argument("directory", type=Path, help="folder of a run, for example runs/demo")
    try:
        directory = parser.parse(argv).directory
        store = open_run(directory)
        try:
            print_results(store, Console())
        finally:
            store.close()
        print(f"Report: {write_report(directory)}")
    except SpftError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
