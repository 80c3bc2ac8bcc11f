"""Build families and find them again: folders of variants, each with its record."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import sqlglot

from spftcore.errors import SpftError, UsageError
from spftcore.verify.executor import Executor
from spftcore.verify.families.golds import Gold, UnreadableGold, read_gold
from spftcore.verify.families.schema import read_schema
from spftcore.verify.families.select import SELECTION_LIMITS, Case, Kept, choose, make_cases
from spftcore.verify.families.values import value_space
from spftcore.verify.families.variants import CannotFill
from spftcore.verify.outcomes import Status

RECORD = "family.json"
FORMAT = 1  # of the record and of what a seed means; another number makes old families stale


@dataclass(frozen=True)
class FamilyReport:
    """What became of one database.

    Attributes:
        database: its id.
        files: the variants.
        mutants: mutants of its golds that run, also those that mean the same as the gold.
        by_original: of these, separated by the original already.
        separated: of these, separated by the original or a variant.
        golds: distinct golds given.
        not_run: (gold, why) of those without a result on the original.
        unread: golds that run but that the parser does not understand: judged, never mutated.
        empty: golds without a row on the original and on every variant.
        error: why there is no family; '' when there is one.
        seconds: time it took; 0 when an earlier family was kept.
        reused: an earlier family with the same source, golds and seed was kept.
    """

    database: str
    files: tuple[Path, ...] = ()
    mutants: int = 0
    by_original: int = 0
    separated: int = 0
    golds: int = 0
    not_run: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0
    reused: bool = False


def build_families(
    databases: Mapping[str, Path],
    golds: Mapping[str, Sequence[str]],
    output: Path,
    *,
    seed: int = 0,
    variants: int = 12,
    report: Callable[[FamilyReport], None] | None = None,
) -> list[FamilyReport]:
    """Build the family of each database that has golds, in `output/<id>/`.

    A family that is complete for the same file, golds, seed and number of variants is kept as it
    is; any other is replaced once the new one is complete. One database that fails does not stop
    the others: its report says why.

    Args:
        databases: file by database id; never written to.
        golds: gold queries by database id.
        output: folder of the families; made when missing.
        seed: decides every draw; the same seed gives the same files.
        variants: the most variants of one database.
        report: called with each report as soon as there is one.

    Returns:
        One report for each database with golds, in the order of `golds`.

    Raises:
        UsageError: a gold's database is unknown, `variants` is below 1, or `output` lies beside or
            above a database.
        SpftError: `output` cannot be written, or the executor is not built.
    """
    if variants < 1:
        raise UsageError(f"variants must be at least 1, not {variants}.")
    unknown = [name for name in golds if name not in databases]
    if unknown:
        raise UsageError(
            f"There are gold queries for '{unknown[0]}', but no database of that id. "
            "Check the folder of databases, or leave these queries out."
        )
    _keep_apart(databases.values(), output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpftError(
            f"The folder of families {output} cannot be made ({error.strerror}). "
            "Choose a folder that can be written to."
        ) from error
    reports = []
    with Executor() as runner, Executor(limits=SELECTION_LIMITS) as judge:
        for name, queries in golds.items():
            texts = list(dict.fromkeys(queries))
            made = _family((runner, judge), name, databases[name], texts, output, seed, variants)
            reports.append(made)
            if report is not None:
                report(made)
    return reports


def family_of(directory: Path, database: Path, gold: str | None = None) -> list[Path]:
    """The variants of a database, sorted; the original is not among them.

    Files that somebody else made (the official test suites, say) serve as well: a folder
    `<id>/*.sqlite` without a record is taken whole.

    Args:
        directory: folder of the families.
        database: the original file, known by its stem.
        gold: leave out the variants on which this gold's result is chance (ties) or missing. A
            query that the family was not built for keeps them all.

    Raises:
        SpftError: there is no family of that database, or its files and its record differ.
    """
    folder = directory / database.stem
    files = sorted(folder.glob("*.sqlite"))
    build = (
        f"python -m spftcore.verify.families --databases {database.parent} --pairs FILE "
        f"--output {directory}"
    )
    try:
        changed = (folder / RECORD).stat().st_mtime_ns
    except OSError:
        if files:
            return files
        raise SpftError(
            f"There is no family of '{database.stem}' in {directory}. Build it with: {build}"
        ) from None
    names, unfit = _listed(folder, changed)
    if names != tuple(file.name for file in files):
        raise SpftError(
            f"The family in {folder} is damaged: its files are not those of its {RECORD}. "
            f"Build it again with: {build}"
        )
    if gold is None:
        return files
    named = unfit.get(digest(gold), frozenset())
    return [file for file in files if file.name not in named]


def digest(gold: str) -> str:
    """A short name of a query in the record; white space and semicolons around it do not count."""
    text = gold.strip().rstrip("; \t\r\n")
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _keep_apart(databases: Iterable[Path], output: Path) -> None:
    """Refuse an output folder in which a family could meet a user's file."""
    target = output.resolve()
    for database in databases:
        home = database.resolve().parent
        if home == target or target in home.parents or home in target.parents:
            raise UsageError(
                f"The folder of families {output} and the database {database} lie in one another; "
                "nothing is written beside a database. Choose another folder with --output."
            )


def _family(
    executors: tuple[Executor, Executor],
    name: str,
    source: Path,
    golds: list[str],
    output: Path,
    seed: int,
    variants: int,
) -> FamilyReport:
    folder = output / name
    start = time.perf_counter()
    try:
        inputs = _inputs(source, golds, seed, variants)
        earlier = _record(folder)
        if earlier is not None and earlier["inputs"] == inputs:
            return _report(folder, earlier, reused=True)
        if folder.exists() and not (folder / RECORD).is_file():
            raise SpftError(
                f"{folder} exists and is not a family of databases. Move it away, or choose "
                "another folder with --output."
            )
        record, partial = _build(executors, name, source, golds, output, inputs)
        _replace(folder, partial)
        return _report(folder, record, seconds=time.perf_counter() - start)
    except CannotFill as error:
        reason = f"The schema of '{name}' cannot be filled: {error}."
    except SpftError as error:
        reason = str(error)
    except OSError as error:
        reason = f"The family of '{name}' cannot be written to {folder}: {error.strerror}."
    shutil.rmtree(_partial(output, name), ignore_errors=True)
    return FamilyReport(name, golds=len(golds), error=reason)


def _build(
    executors: tuple[Executor, Executor],
    name: str,
    source: Path,
    golds: list[str],
    output: Path,
    inputs: dict[str, Any],
) -> tuple[dict[str, Any], Path]:
    schema = read_schema(source)
    runner, judge = executors  # the first with the usual limits: golds must run under those
    outcomes = runner.execute([(source, sql) for sql in golds])
    filled = {g for g, o in zip(golds, outcomes, strict=True) if o.status == Status.OK}
    not_run = [(g, o.message) for g, o in zip(golds, outcomes, strict=True) if not o.ran]
    running = [g for g, o in zip(golds, outcomes, strict=True) if o.ran]
    if not running:
        why = f": {not_run[0][1]}" if not_run else ""
        raise SpftError(f"No gold query of '{name}' runs{why}. Check that the pairs fit it.")
    read: list[Gold] = []
    unread = []
    for sql in running:
        try:
            read.append(read_gold(sql, schema))
        except UnreadableGold:
            unread.append(sql)
    space = value_space(schema, read)
    cases = make_cases(read, schema, space)
    partial = _partial(output, name)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    kept = choose(
        judge,
        source,
        partial,
        schema,
        space,
        cases,
        seed=f"{inputs['seed']}/{name}",
        variants=inputs["variants"],
    )
    record = {
        "format": FORMAT,
        "database": name,
        "inputs": inputs,
        "versions": {"sqlite": apsw.sqlite_lib_version(), "sqlglot": sqlglot.__version__},
        "notes": list(schema.notes),
        "files": [_file_entry(k, cases) for k in kept],
        "golds": {
            "given": len(golds),
            "not_run": not_run,
            "unread": unread,
            "empty": [c.gold.sql for c in cases if not c.filled and c.gold.sql not in filled],
        },
        **_mutant_counts(cases),
    }
    path = partial / RECORD
    with path.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    return record, partial


def _file_entry(kept: Kept, cases: list[Case]) -> dict[str, Any]:
    return {
        "name": kept.file.name,
        "rows": kept.rows,
        "unfit": sorted(digest(cases[number].gold.sql) for number in kept.unfit),
    }


def _mutant_counts(cases: list[Case]) -> dict[str, Any]:
    kinds: dict[str, Counter[str]] = {}
    left = []
    for case in cases:
        for i, mutant in enumerate(case.mutants):
            count = kinds.setdefault(mutant.kind, Counter())
            count["all"] += 1
            count["by_original"] += i in case.by_original
            count["separated"] += case.separated[i] > 0
            if not case.separated[i]:
                left.append({"gold": case.gold.sql, "kind": mutant.kind, "sql": mutant.sql})
    return {"mutants": {kind: dict(c) for kind, c in kinds.items()}, "unseparated": left}


def _inputs(source: Path, golds: list[str], seed: int, variants: int) -> dict[str, Any]:
    try:
        with source.open("rb") as file:
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SpftError(f"Database {source} cannot be read ({error.strerror}).") from error
    listed = hashlib.sha256(json.dumps(golds).encode()).hexdigest()
    return {"source": fingerprint, "golds": listed, "seed": seed, "variants": variants}


def _record(folder: Path) -> dict[str, Any] | None:
    """The record of a complete family of this format, or None."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = (
        isinstance(record, dict)
        and record.get("format") == FORMAT
        and all((folder / entry["name"]).is_file() for entry in record["files"])
    )
    return record if complete else None


@functools.lru_cache(maxsize=1024)
def _listed(folder: Path, _changed: int) -> tuple[tuple[str, ...], dict[str, frozenset[str]]]:
    # Asked for every item of a batch, while the record of a large family takes milliseconds.
    record = _record(folder)
    if record is None:
        return (f"not a readable {RECORD}",), {}
    unfit: dict[str, set[str]] = {}
    for entry in record["files"]:
        for gold in entry["unfit"]:
            unfit.setdefault(gold, set()).add(entry["name"])
    names = tuple(entry["name"] for entry in record["files"])
    return names, {gold: frozenset(found) for gold, found in unfit.items()}


def _report(
    folder: Path, record: dict[str, Any], *, seconds: float = 0.0, reused: bool = False
) -> FamilyReport:
    golds = record["golds"]
    kinds = record["mutants"].values()
    return FamilyReport(
        record["database"],
        tuple(folder / entry["name"] for entry in record["files"]),
        sum(c["all"] for c in kinds),
        sum(c["by_original"] for c in kinds),
        sum(c["separated"] for c in kinds),
        golds["given"],
        tuple((sql, why) for sql, why in golds["not_run"]),
        tuple(golds["unread"]),
        tuple(golds["empty"]),
        seconds=seconds,
        reused=reused,
    )


def _partial(output: Path, name: str) -> Path:
    return output / f".{name}.partial"


def _replace(folder: Path, partial: Path) -> None:
    """Put a complete family in its place; a reader sees the old one or the new one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
