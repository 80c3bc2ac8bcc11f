"""Writes question-SQL pairs for a folder of SQLite databases: `python -m spftcore.synthesize`.

    python -m spftcore.synthesize --databases DIR --count 2000 --output pairs.jsonl

Every query is filled from a template, run, and checked; its question is written by rule, or by a
model (--model) where that passes the checks. With --pairs the templates are those of your queries,
beside the built-in ones. OUTPUT.html shows samples. What was stopped goes on with --resume.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spftcore.config import DataConfig, MixConfig, OptionParser, SensitiveMode
from spftcore.databases import Catalogue
from spftcore.dialects import in_sqlite
from spftcore.errors import SpftError, UsageError, explain
from spftcore.pairs import Pair, question_key, read_pairs
from spftcore.synthesis import TemplateError, TemplatePool, canonical, extract, synthesize_sql
from spftcore.synthesis.mentions import Mentions
from spftcore.synthesis.questions import Writer, write_questions
from spftcore.synthesis.sheet import write_sheet
from spftcore.verify import Executor

PART = 1000  # pairs that are written together; what is stopped repeats at most one part
LIBRARY_SHARE = 0.3  # of the draws, where pairs bring templates of their own
SPARE = 1.1  # queries for each pair: a few get no question that passes


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; a file that was begun goes on only with the same (or another count).

    Attributes:
        databases: folder of SQLite files.
        count: pairs wanted.
        output: JSONL file to write.
        pairs: seed pairs that bring templates and words.
        templates: file of templates in text form, in the place of the built-in ones.
        exclude: files of pairs whose queries and questions must not come out.
        model: run or checkpoint that writes questions.
        tables_json: schema file with natural names and keys.
        mix: shares of difficulty by name; empty: as the templates have it.
        seed: of everything that is random.
        sensitive: what becomes of columns that look personal or secret (`data.sensitive`).
        sensitive_columns: patterns of more of them, or of harmless ones (`data.sensitive_columns`).
    """

    databases: Path
    count: int
    output: Path
    pairs: Path | None = None
    templates: Path | None = None
    exclude: tuple[Path, ...] = ()
    model: Path | None = None
    tables_json: Path | None = None
    mix: dict[str, float] = field(default_factory=dict)
    seed: int = 1
    sensitive: SensitiveMode = "values"
    sensitive_columns: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """As JSON, for the comparison with what a file was begun with."""
        values = {k: v for k, v in asdict(self).items() if k not in ("output", "count")}
        return json.loads(json.dumps(values, default=str))


@dataclass
class Summary:
    """What was written so far.

    Attributes:
        pairs: how many.
        bytes: length of the file they stand in.
        parts: parts that are complete.
        draws: fillings tried.
        rejections: queries and questions that were not kept, by cause.
        writers: pairs by who wrote the question.
        databases: pairs by database.
        difficulties: kept queries by class.
        tables, tables_used: tables with rows, and those that some query reads, in the last part.
    """

    pairs: int = 0
    bytes: int = 0
    parts: int = 0
    draws: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    writers: Counter[str] = field(default_factory=Counter)
    databases: Counter[str] = field(default_factory=Counter)
    difficulties: Counter[str] = field(default_factory=Counter)
    tables: int = 0
    tables_used: int = 0

    def to_json(self) -> dict[str, Any]:
        # Not asdict: it makes another thing of a Counter.
        return {k: dict(v) if isinstance(v, Counter) else v for k, v in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Summary:
        counted: dict[str, Any] = {
            name: Counter(value) if isinstance(value, dict) else value
            for name, value in values.items()
        }
        return cls(**counted)


class Synthesis:
    """One command's work: parts of pairs, appended to OUTPUT.partial and noted in OUTPUT.state.

    Raises:
        SpftError: bad input, or nothing can be made of it.
        UsageError: the output exists, or was begun otherwise.
    """

    def __init__(self, request: Request, *, resume: bool, console: Console) -> None:
        self.request, self.console = request, console
        output = request.output
        self.partial = output.with_name(output.name + ".partial")
        self.state = output.with_name(output.name + ".state")
        self.sheet = output.with_name(output.name + ".html")
        # In the ids, so that files of several requests may be put together.
        text = json.dumps(request.identity(), sort_keys=True)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:6]
        self.summary = self._begun(resume)
        data = DataConfig(
            databases=request.databases,
            tables_json=request.tables_json,
            sensitive=request.sensitive,
            sensitive_columns=request.sensitive_columns,
        )
        self.catalogue = Catalogue.from_settings(data, request.databases, None)
        for message in self.catalogue.unreadable.values():
            console.print(f"Left out: {message}", highlight=False, markup=False)
        self.seeds = self._known(request.pairs, "seed") if request.pairs else []
        kept_out = [pair for path in request.exclude for pair in self._known(path, "benchmark")]
        self.pool = self._pool()
        self.excluded: set[tuple[str, str]] = set()
        self.asked: set[tuple[str, str]] = set()
        for pair in (*self.seeds, *kept_out, *self._written()):
            self._note(pair)

    def run(self) -> Summary:
        """Writes what is missing, part by part, and gives the file its name."""
        request, done = self.request, self.summary
        with (
            tempfile.TemporaryDirectory() as folder,
            Executor() as executor,
            Progress(
                TextColumn("pairs"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            ) as progress,
        ):
            task = progress.add_task("pairs", total=request.count, completed=done.pairs)
            model = self._question_writer(Path(folder))
            while done.pairs < request.count:
                if not self._part(executor, min(PART, request.count - done.pairs), model):
                    break
                progress.update(task, completed=done.pairs)
        if not done.pairs:
            raise SpftError(
                f"No pair could be made ({_causes(done.rejections)}). Check that the databases "
                "hold rows, or give --pairs or --templates that fit them."
            )
        write_sheet(
            self.sheet, request.output.name, self._written(), done.to_json(), self.catalogue
        )
        self.partial.rename(request.output)
        self.state.unlink()
        return done

    def _part(self, executor: Executor, wanted: int, model: Writer | None) -> bool:
        """Writes one part; False where nothing new was found."""
        done, request = self.summary, self.request
        rng = random.Random(f"{request.seed}:{done.parts}")
        found = synthesize_sql(
            self.pool,
            list(self.catalogue.values()),
            executor,
            round(wanted * SPARE) + 1,
            rng,
            self.excluded,
            mix=MixConfig(**request.mix).shares(),
        )
        written = write_questions(
            found.queries,
            self.catalogue,
            rng,
            model=model,
            seen=self.asked,
            mentions=Mentions((p.question, p.sql, self.catalogue[p.database]) for p in self.seeds),
            prefix=f"synthesized-{self.name}-{done.parts:04d}",
        )
        pairs = written.pairs[:wanted]
        text = "".join(pair.to_json() + "\n" for pair in pairs).encode()
        with self.partial.open("r+b" if self.partial.exists() else "wb") as file:
            file.seek(done.bytes)
            file.truncate()
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for pair in pairs:
            self._note(pair)
        done.pairs += len(pairs)
        done.bytes += len(text)
        done.parts += 1
        done.draws += found.draws
        done.rejections.update(found.rejections)
        done.rejections.update({f"question {k}": n for k, n in written.rejections.items()})
        done.writers.update(str(pair.checks["writer"]) for pair in pairs)
        done.databases.update(pair.database for pair in pairs)
        done.difficulties.update(found.difficulties)
        done.tables, done.tables_used = found.tables, found.tables_used
        state = {"request": request.identity(), "summary": done.to_json()}
        temporary = self.state.with_name(self.state.name + ".new")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        temporary.replace(self.state)
        return bool(pairs)

    def _begun(self, resume: bool) -> Summary:
        output = self.request.output
        if output.exists():
            raise UsageError(f"{output} exists. Choose another --output, or remove it.")
        if not output.parent.is_dir():
            raise UsageError(f"There is no folder {output.parent} for --output. Make it first.")
        if not self.state.exists():
            return Summary()
        if not resume:
            raise UsageError(
                f"{output} was begun before. Go on with --resume, or remove {self.state.name}."
            )
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            before, summary = state["request"], Summary.from_json(state["summary"])
        except (ValueError, KeyError, TypeError) as error:
            raise SpftError(
                f"{self.state} is damaged ({error}). Remove it to begin anew."
            ) from None
        now = self.request.identity()
        changed = [name for name in now if now[name] != before.get(name)]
        if changed:
            raise UsageError(
                f"{output} was begun with other values of {', '.join(changed)}. Use the same, or "
                f"remove {self.state.name}."
            )
        length = self.partial.stat().st_size if self.partial.exists() else 0
        if length < summary.bytes:
            raise SpftError(
                f"{self.partial} is shorter than {self.state.name} says. Remove both to begin anew."
            )
        return summary

    def _written(self) -> list[Pair]:
        """The pairs so far."""
        if not self.summary.bytes:
            return []
        with self.partial.open("rb") as file:
            lines = file.read(self.summary.bytes).decode().split("\n")
        return [Pair(**json.loads(line)) for line in lines if line]

    def _known(self, path: Path, source: str) -> list[Pair]:
        """The pairs of a file whose database is there and whose SQL runs, if need be put into
        SQLite's; how many others there are is printed with an example."""
        pairs = read_pairs(path, source=source, split="train")
        here = [pair for pair in pairs if pair.database in self.catalogue]
        places = [self.catalogue[pair.database].path for pair in here]
        with Executor() as executor:
            asked = [(place, pair.sql) for place, pair in zip(places, here, strict=True)]
            failed = [i for i, one in enumerate(executor.execute(asked)) if not one.ran]
            found = in_sqlite([asked[i] for i in failed], executor)
        readings = dict(zip(failed, found, strict=True))
        kept = []
        for i, pair in enumerate(here):
            reading = readings.get(i)
            if i not in readings:
                kept.append(pair)
            elif reading is not None:
                kept.append(replace(pair, sql=reading.sql))
        lost = [here[i].id for i, reading in readings.items() if reading is None]
        unknown = [pair.id for pair in pairs if pair.database not in self.catalogue]
        for ids, cause in ((unknown, "are of unknown databases"), (lost, "have SQL that fails")):
            if ids:
                text = f"{len(ids)} of {len(pairs)} pairs in {path} {cause}, for example {ids[0]}."
                self.console.print(text, highlight=False, markup=False)
        return kept

    def _pool(self) -> TemplatePool:
        given = self.request.templates
        if given is not None:
            try:
                text = given.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SpftError(f"Cannot read the templates {given} ({error}).") from None
            library = TemplatePool.from_text(text, str(given))
        else:
            library = TemplatePool.builtin()
        pool, causes = TemplatePool(), Counter[str]()
        for pair in self.seeds:
            try:
                pool.add(extract(pair.sql, self.catalogue[pair.database]), "seed")
            except TemplateError as error:
                causes[error.cause] += 1
        if causes:
            self.console.print(
                f"{sum(causes.values())} of {len(self.seeds)} pairs give no template "
                f"({_causes(causes)}).",
                highlight=False,
                markup=False,
            )
        if not len(pool):
            return library
        pool.merge(library, LIBRARY_SHARE)
        return pool

    def _note(self, pair: Pair) -> None:
        """A pair that may not be made again."""
        form = canonical(pair.sql, self.catalogue[pair.database])
        self.excluded.add((pair.database, form))
        self.asked.add((pair.database, question_key(pair.question)))

    def _question_writer(self, folder: Path) -> Writer | None:
        if self.request.model is None:
            return None
        from spftcore.stages.question_writer import question_writer  # loads torch

        return question_writer(self.request.model, self.catalogue, folder)


def _causes(causes: Counter[str]) -> str:
    return ", ".join(f"{cause}: {n:,}" for cause, n in causes.most_common(3)) or "no cause"


def print_summary(summary: Summary, request: Request, console: Console) -> None:
    """The table of what was written and why the rest was not."""
    table = Table(title=f"{summary.pairs:,} pairs of {len(summary.databases)} databases")
    table.add_column("what")
    table.add_column("count", justify="right")
    for writer, count in summary.writers.most_common():
        table.add_row(f"question by {'rule' if writer == 'rules' else 'the model'}", f"{count:,}")
    for name in MixConfig.model_fields:
        table.add_row(f"{name} queries found", f"{summary.difficulties[name]:,}")
    table.add_section()
    for cause, count in summary.rejections.most_common(12):
        table.add_row(f"not kept: {cause}", f"{count:,}")
    console.print(table)
    if summary.pairs < request.count:
        console.print(
            f"Only {summary.pairs:,} of {request.count:,}: nothing new was found any more. More "
            "rows, databases or templates give more.",
            highlight=False,
        )
    console.print(f"Pairs:   {request.output}\nSamples: {request.output}.html", highlight=False)


def parser() -> OptionParser:
    """The command line."""
    options = OptionParser(
        prog="python -m spftcore.synthesize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = options.add_argument
    add("--databases", type=Path, required=True, metavar="DIR", help="folder of SQLite files")
    add("--output", type=Path, required=True, metavar="FILE", help="JSONL file to write")
    add("--count", type=int, default=1000, metavar="N", help="pairs wanted (1000)")
    add("--pairs", type=Path, metavar="FILE", help="your pairs: their templates and words")
    add("--templates", type=Path, metavar="FILE", help="templates instead of the built-in ones")
    add("--model", type=Path, metavar="PATH", help="a run or checkpoint that writes questions")
    add(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="pairs that must not come out, such as those you evaluate on (repeatable)",
    )
    add("--tables-json", type=Path, metavar="FILE", help="Spider-style names and keys")
    add("--mix", default="", metavar="CLASS=X,…", help="shares of easy, medium, hard, extra")
    add(
        "--sensitive",
        choices=get_args(SensitiveMode),
        default="values",
        help="columns that look personal or secret: values unseen (default), all hidden, or shown",
    )
    add("--sensitive-columns", default="", metavar="PATTERN,…", help="more of them; !P: harmless")
    add("--seed", type=int, default=1, metavar="N", help="of everything that is random (1)")
    add("--resume", action="store_true", help="go on with what was stopped")
    return options


def _mix(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if name not in MixConfig.model_fields or share < 0:
            raise UsageError(
                f"--mix has '{part}'; it takes shares such as easy=0.2,medium=0.5,hard=0.3."
            )
        shares[name] = share
    return shares


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, 1 (it failed or was stopped), 2 (usage)."""
    console, errors = Console(), Console(stderr=True)
    try:
        given = parser().parse(argv)
        if given.count < 1:
            raise UsageError("--count must be at least 1.")
        request = Request(
            given.databases,
            given.count,
            given.output,
            given.pairs,
            given.templates,
            tuple(given.exclude),
            given.model,
            given.tables_json,
            _mix(given.mix),
            given.seed,
            given.sensitive,
            tuple(filter(None, given.sensitive_columns.split(","))),
        )
        try:
            summary = Synthesis(request, resume=given.resume, console=console).run()
        except SpftError:
            raise
        except Exception as error:
            raise explain(error, given.output.parent) from None
        print_summary(summary, request, console)
        return 0
    except SpftError as error:
        errors.print(f"Error: {error}", highlight=False, markup=False)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        errors.print("\nStopped. Go on with the same command and --resume.", highlight=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
