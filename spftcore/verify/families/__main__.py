"""Builds families of database variants: `python -m spftcore.verify.families`.

For each database of the pairs, variants are written to OUTPUT/<id>/ on which queries that are
nearly a gold, and right on the original by luck, give other rows than the gold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spftcore.database_files import database_files
from spftcore.errors import SpftError, UsageError
from spftcore.pairs import read_pairs
from spftcore.verify.families.build import FamilyReport, build_families


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m spftcore.verify.families", description=__doc__, allow_abbrev=False
    )
    options.add_argument(
        "--databases",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of <id>.sqlite or <id>/<id>.sqlite files; never written to",
    )
    options.add_argument(
        "--pairs",
        type=Path,
        required=True,
        metavar="FILE",
        help="gold queries: JSONL or a JSON list, Spider's and BIRD's keys too",
    )
    options.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the families"
    )
    options.add_argument("--seed", type=int, default=0, help="decides every draw (default 0)")
    options.add_argument(
        "--limit-per-database",
        type=int,
        default=12,
        metavar="N",
        help="the most variants of one database (default 12)",
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 when a family could not be built, 2 on misuse."""
    given = parser().parse_args(arguments)
    console = Console()
    errors = Console(stderr=True)
    try:
        golds: dict[str, list[str]] = {}
        for pair in read_pairs(given.pairs, source="benchmark", split=""):
            golds.setdefault(pair.database, []).append(pair.sql)
        databases = dict(database_files(given.databases))
        missing = sorted(set(golds) - set(databases))
        for name in missing:
            errors.print(
                f"No database '{name}' in {given.databases}: its pairs are left out.",
                style="yellow",
                highlight=False,
                markup=False,
            )
        known = {name: golds[name] for name in golds if name not in missing}
        if not known:
            raise SpftError(
                f"No database of {given.pairs} is in {given.databases}. Check both paths."
            )
        with console.status("families") as status:

            def progress(report: FamilyReport) -> None:
                status.update(f"families: {report.database} done")

            reports = build_families(
                {name: databases[name] for name in known},
                known,
                given.output,
                seed=given.seed,
                variants=given.limit_per_database,
                report=progress,
            )
    except SpftError as error:
        errors.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        errors.print("Stopped. Finished families are kept; the same command goes on.")
        return 130
    console.print(_table(reports))
    for report in reports:
        for line in _remarks(report):
            errors.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if any(report.error for report in reports) else 0


def _table(reports: Sequence[FamilyReport]) -> Table:
    table = Table(title="Families of variants")
    table.add_column("database")
    for heading in ("golds", "variants", "mutants", "original", "family", "seconds"):
        table.add_column(heading, justify="right")
    for report in reports:
        if report.error:
            table.add_row(report.database, str(report.golds), "[red]failed[/red]", "", "", "", "")
            continue
        table.add_row(
            report.database,
            str(report.golds),
            str(len(report.files)),
            str(report.mutants),
            _share(report.by_original, report.mutants),
            _share(report.separated, report.mutants),
            "kept" if report.reused else f"{report.seconds:.1f}",
        )
    table.caption = "original, family: share of mutants told from their gold"
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _remarks(report: FamilyReport) -> list[str]:
    """What a user should look at: failures, golds that do not run or never return a row."""
    name = report.database
    if report.error:
        return [f"{name}: {report.error}"]
    lines = [f"{name}: gold does not run ({why}): {sql}" for sql, why in report.not_run]
    lines += [f"{name}: gold is not understood and has no mutants: {sql}" for sql in report.unread]
    lines += [f"{name}: gold returns no row on any file: {sql}" for sql in report.empty]
    return lines


if __name__ == "__main__":
    sys.exit(main())
