"""The first stage: reads databases and pairs, runs every gold, and extracts templates."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from spftcore.config import Config
from spftcore.dialects import in_sqlite
from spftcore.errors import SpftError, UsageError
from spftcore.pairs import Pair, question_key, read_pairs, split_pairs
from spftcore.stages.context import RunContext
from spftcore.stages.continuing import continued
from spftcore.store import StageWriter
from spftcore.synthesis import TemplateError, TemplatePool, canonical, extract, normalise_sql
from spftcore.verify import Outcome, Status

SPLIT_OFF = 0.15  # share of the seeds that becomes a test set when none is given


def is_demo(config: Config) -> bool:
    """Whether the run uses the embedded databases.

    Raises:
        UsageError: pairs without databases, or databases with neither pairs nor a model.
    """
    data = config.data
    if config.run.continues is not None:
        return False
    if data.databases is None and data.pairs is None:
        return True
    if data.databases is None:
        raise UsageError("--data.pairs needs --data.databases: the folder of SQLite files.")
    if data.pairs is None and config.model.name_or_path is None:
        raise UsageError(
            "--data.databases without --data.pairs needs --model.name_or_path: a model from "
            "nothing has no pairs to begin with. Or write pairs first: python -m "
            "spftcore.synthesize --databases DIR --output pairs.jsonl, and give them as "
            "--data.pairs."
        )
    return False


def databases_folder(config: Config, directory: Path) -> Path:
    """The folder of databases; the embedded ones are built in the run's folder on first use."""
    if config.data.databases is not None:
        return config.data.databases
    folder = directory / "databases"
    folder.mkdir(parents=True, exist_ok=True)
    for script in sorted(files("spftcore.demo").joinpath("databases").iterdir(), key=str):
        target = folder / f"{Path(script.name).stem}.sqlite"
        if script.name.endswith(".sql") and not target.exists():
            partial = target.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            connection = sqlite3.connect(partial)
            connection.executescript(script.read_text(encoding="utf-8"))
            connection.close()
            partial.rename(target)
    return folder


def read_inputs(config: Config) -> tuple[list[Pair], list[Pair]]:
    """(seeds, evaluation pairs), the latter with their split.

    A run that continues another has that one's training pairs too, after its own, and its
    evaluation pairs where it is given none.
    """
    data = config.data
    previous = continued(config)
    trained, evaluated = ([], []) if previous is None else previous.pairs()
    if is_demo(config):
        demo = Path(str(files("spftcore.demo")))
        pairs, dev, test = demo / "seeds.jsonl", demo / "dev.jsonl", demo / "test.jsonl"
        dev, test = data.dev or dev, data.test or test
    else:
        pairs, dev, test = data.pairs, data.dev, data.test  # type: ignore[assignment]
    held_out = []
    for split, path in (("dev", dev), ("test", test)):
        if path is not None:
            held_out += read_pairs(path, source="benchmark", split=split)
    seeds = [] if pairs is None else read_pairs(pairs, source="seed", split="train")
    return seeds + trained, held_out or evaluated


def _sample(pairs: list[Pair], limit: int, seed: int) -> list[Pair]:
    if 0 < limit < len(pairs):
        keep = set(random.Random(seed).sample(range(len(pairs)), limit))
        return [pair for i, pair in enumerate(pairs) if i in keep]
    return pairs


class LeftOut:
    """Pairs that are not used, counted by cause with an example of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, stage: StageWriter, pair: Pair, cause: str, message: str) -> None:
        self.counts[cause] += 1
        self.examples.setdefault(cause, f"{pair.id}: {message}")
        stage.excluded(pair, cause, message)

    def result(self) -> dict[str, int | str]:
        """Counts and examples, as a stage's result states them."""
        stated: dict[str, int | str] = {}
        for cause in sorted(self.counts):
            stated[f"left out ({cause})"] = self.counts[cause]
            stated[f"for example ({cause})"] = self.examples[cause]
        return stated


def prepare(context: RunContext, stage: StageWriter) -> None:
    """Stores the checked pairs with their splits, and the templates of the seeds (without any, the
    built-in ones).

    A pair of an unknown or unreadable database, or whose gold does not run, is left out and kept
    in `excluded_pairs` with the cause. A gold that only another dialect understands is put into
    SQLite's SQL.

    Raises:
        SpftError: a file is unreadable, or no pair is left.
    """
    config = context.config
    seeds, held_out = read_inputs(config)
    left_out = LeftOut()
    seeds = _checked(context, stage, seeds, left_out)
    if not seeds and config.data.pairs is not None:
        causes = "; ".join(
            f"{cause}: {count}, for example {left_out.examples[cause]}"
            for cause, count in left_out.counts.most_common()
        )
        raise SpftError(
            f"None of the pairs in {config.data.pairs} can be used ({causes}). Databases found in "
            f"{context.databases}: {', '.join(list(context.catalogue)[:10])}."
        )
    held_out = _checked(context, stage, held_out, left_out)
    own, taken = _own_and_taken_over(context, seeds)
    learned = {key for pair in taken for key in _keys(context, pair)}
    for pair in held_out:
        if _keys(context, pair) & learned:
            message = f"the run {pair.checks.get('run', config.run.continues)} trained on it"
            left_out.add(stage, pair, "trained on before", message)
    held_out = [pair for pair in held_out if not _keys(context, pair) & learned]
    if own and not held_out:
        fresh = [pair for pair in own if not _keys(context, pair) & learned]
        split = split_pairs(
            fresh, {"test": SPLIT_OFF}, lambda p: _canonical(context, p), config.run.seed
        )
        held_out = [replace(pair, source="benchmark") for pair in split if pair.split != "train"]
        split_off = {pair.id for pair in held_out}
        own = [pair for pair in own if pair.id not in split_off]
    seeds = _sample([*own, *taken], config.data.max_pairs, context.seed("max_pairs"))
    by_split = [[p for p in held_out if p.split == split] for split in ("dev", "test")]
    held_out = [
        pair
        for part in by_split
        for pair in _sample(part, config.data.max_test, context.seed("max_test"))
    ]
    seeds = _apart(context, stage, seeds, held_out, left_out)
    seeds = _in_one_style(context, seeds)
    rejected: Counter[str] = Counter()
    pool = TemplatePool() if seeds else TemplatePool.builtin()
    for i, pair in enumerate(seeds):
        context.progress(i + 1, len(seeds), "extracting templates")
        try:
            template = extract(pair.sql, context.catalogue[pair.database])
        except TemplateError as error:
            rejected[error.cause] += 1
            continue
        pool.add(template, pair.id)
        seeds[i] = replace(pair, template=template.id)
    if not len(pool):
        raise SpftError(
            f"No template could be extracted from the seed pairs "
            f"({', '.join(f'{cause}: {n}' for cause, n in rejected.most_common(3))})."
        )
    for entry in pool:
        stage.template(entry.template.id, entry.template.text, entry.weight, entry.sources)
    stage.rejections("template", rejected)
    stage.pairs(seeds)
    stage.pairs(held_out)
    for name, database in context.catalogue.items():
        rows = sum(table.rows for table in database.tables)
        stage.database(name, str(database.path), len(database.tables), rows)
    unreadable = len(context.catalogue.unreadable)
    stage.result = {
        "seeds": len(seeds),
        "templates": len(pool),
        **Counter(pair.split for pair in held_out),
        **({"unreadable databases": unreadable} if unreadable else {}),
        **left_out.result(),
    }


def _apart(
    context: RunContext,
    stage: StageWriter,
    seeds: Sequence[Pair],
    held_out: Sequence[Pair],
    left_out: LeftOut,
) -> list[Pair]:
    """The seeds that share neither a query nor a question with what is evaluated on."""
    evaluated = {key for pair in held_out for key in _keys(context, pair)}
    kept = []
    for pair in seeds:
        shared = sorted(kind for kind, _ in _keys(context, pair) & evaluated)
        if shared:
            message = f"the same {' and '.join(shared)}"
            left_out.add(stage, pair, "shared with evaluation", message)
        else:
            kept.append(pair)
    return kept


def _own_and_taken_over(
    context: RunContext, seeds: Sequence[Pair]
) -> tuple[list[Pair], list[Pair]]:
    """The run's own seeds, and those it takes over from a run that it continues, without what the
    own ones repeat."""
    own = [pair for pair in seeds if "run" not in pair.checks]
    repeated = {frozenset(_keys(context, pair)) for pair in own}
    taken = [pair for pair in seeds if "run" in pair.checks]
    return own, [pair for pair in taken if frozenset(_keys(context, pair)) not in repeated]


def _keys(context: RunContext, pair: Pair) -> set[tuple[str, str]]:
    """By what two pairs are told to be one, each alone: the query and the question."""
    question = f"{pair.database}:{question_key(pair.question)}"
    return {("sql", _canonical(context, pair)), ("question", question)}


def _canonical(context: RunContext, pair: Pair) -> str:
    return f"{pair.database}:{canonical(pair.sql, context.catalogue[pair.database])}"


def _checked(
    context: RunContext, stage: StageWriter, pairs: Sequence[Pair], left_out: LeftOut
) -> list[Pair]:
    """The pairs whose database is readable and whose gold runs, if need be put into SQLite's SQL;
    the others are recorded and counted."""
    catalogue = context.catalogue
    known = [pair for pair in pairs if pair.database in catalogue]
    for pair in pairs:
        if pair.database in catalogue.unreadable:
            cause, message = "unreadable database", catalogue.unreadable[pair.database]
            left_out.add(stage, pair, cause, message)
        elif pair.database not in catalogue:
            left_out.add(stage, pair, "unknown database", f"no database '{pair.database}'")
    outcomes = context.executor.execute([(catalogue[p.database].path, p.sql) for p in known])
    foreign = [
        (catalogue[pair.database].path, pair.sql)
        for pair, outcome in zip(known, outcomes, strict=True)
        if _may_be_foreign(outcome)
    ]
    translated = iter(in_sqlite(foreign, context.executor))
    kept = []
    for pair, outcome in zip(known, outcomes, strict=True):
        reading = next(translated) if _may_be_foreign(outcome) else None
        if outcome.ran:
            kept.append(pair)
        elif reading is not None:
            checks = {**pair.checks, "dialect": reading.dialect, "sql before": pair.sql}
            kept.append(replace(pair, sql=reading.sql, checks=checks))
        else:
            left_out.add(stage, pair, "gold does not run", outcome.message)
    return kept


def _may_be_foreign(outcome: Outcome) -> bool:
    """Whether SQLite did not understand a query. A missing table or column says something else:
    a reading that makes a string of it would only hide the fault."""
    no_function = outcome.message.startswith("no such function")
    return outcome.status is Status.SYNTAX_ERROR or no_function


def _in_one_style(context: RunContext, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their SQL printed in one style, where that leaves its result as it was."""
    styled = [normalise_sql(pair.sql, context.catalogue[pair.database]) for pair in pairs]
    items = [
        (context.catalogue[pair.database].path, pair.sql, [sql])
        for pair, sql in zip(pairs, styled, strict=True)
    ]
    return [
        replace(pair, sql=sql) if judged.verdict.name == "RIGHT" else pair
        for pair, sql, (judged,) in zip(pairs, styled, context.executor.verify(items), strict=True)
    ]
