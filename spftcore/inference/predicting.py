"""Answers to a benchmark, kept in a file as they come: what was asked is not asked again."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spftcore.benchmarks import Benchmark
from spftcore.catalogue.cache import file_digest
from spftcore.databases import Catalogue
from spftcore.errors import SpftError, UsageError
from spftcore.inference.answering import Answered, Question
from spftcore.inference.opening import ModelSource, OpenModel
from spftcore.inference.strategies import Strategy
from spftcore.linking.index_file import default_cache
from spftcore.metrics.predictions import Answer

FILE = "predictions.jsonl"  # in an evaluation's folder
FORMAT = 1  # of the rules by which an answer is found; a new number asks everything anew


@dataclass(slots=True)
class Predictions:
    """A model's answers to a benchmark.

    Attributes:
        answers: one per question, in the order of the questions.
        kept: how many were there before.
        seconds: of wall-clock for the others.
        notes: how many questions ended in what, in words; those without a remark are not counted.
    """

    answers: list[Answer]
    kept: int
    seconds: float
    notes: dict[str, int] = field(default_factory=dict)


class Predictor:
    """Asks one model about benchmarks; it is loaded when there is something to ask.

    Args:
        source: the model.
        strategy: how an answer is found.
    """

    def __init__(self, source: ModelSource, strategy: Strategy) -> None:
        self.source = source
        self.strategy = strategy
        self._model: OpenModel | None = None
        self._contents: dict[str, str] = {}

    def predict(
        self,
        benchmark: Benchmark,
        folder: Path,
        *,
        resume: bool,
        report: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> Predictions:
        """Answers all questions; `predictions.jsonl` in the folder holds each as soon as it is
        there, and all of them in order at the end.

        Args:
            benchmark: the questions; the golds are not looked at.
            folder: made if need be.
            resume: take over the answers in the folder that this model gave to this prompt with
                this strategy.
            report: called with what is done, the questions answered, and all of them.

        Raises:
            UsageError: there are answers already, and `resume` is not set.
            SpftError: the model or the databases cannot be read, or the folder not be written to.
        """
        asked = [Question(q.id, q.database, q.question, q.evidence) for q in benchmark.questions]
        used = {q.database for q in asked}
        files = {key: path for key, path in benchmark.databases.items() if key in used}
        if not files:
            raise SpftError(
                f"None of the databases of {benchmark.path} is there. Name their folder with "
                "--databases."
            )
        data = self.source.config.data.model_copy(update={"tables_json": benchmark.tables_json})
        catalogue = Catalogue.of_files(files, data, default_cache() / "catalogue")
        # A vote and a second try hang on results, and so on what is in the database.
        executing = self.strategy.samples > 0 or self.strategy.repair != "off"
        self._contents = {key: file_digest(path) for key, path in files.items() if executing}
        path = folder / FILE
        known = _read(path)
        if known and not resume:
            raise UsageError(
                f"{path} holds {len(known):,} answers already. Go on with --resume (what another "
                "model, prompt or strategy answered is asked again), or choose another --output."
            )
        records = self._still_valid(asked, known, catalogue)
        kept, start = len(records), time.perf_counter()
        report("asking", kept, len(asked))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, records.values())
            missing = [question for question in asked if question.id not in records]
            with path.open("a", encoding="utf-8") as file:
                for answered in self._answers(missing, catalogue):
                    record = self._record(answered)
                    records[answered.question.id] = record
                    file.write(_line(record))
                    file.flush()
                    report("asking", len(records), len(asked))
            ordered = [records[question.id] for question in asked]
            _write(path, ordered)
        except OSError as error:
            raise SpftError(
                f"Cannot write {path}: {error.strerror}. Mend that and go on with --resume."
            ) from None
        return Predictions(
            [Answer(r["sql"], tuple(r.get("samples", ()))) for r in ordered],
            kept,
            time.perf_counter() - start,
            _notes(ordered),
        )

    def close(self) -> None:
        """Lets the model go."""
        if self._model is not None:
            self._model.close()
            self._model = None

    def system(self) -> dict[str, Any]:
        """The model and how it was asked, for the record of an evaluation."""
        config = self.source.config
        return {
            "model": self.source.given,
            "checkpoint": str(self.source.path),
            "digest": self.source.digest,
            "strategy": asdict(self.strategy),
            "prompt": config.prompt.model_dump(mode="json"),
        }

    def _answers(self, missing: Sequence[Question], catalogue: Catalogue) -> Iterator[Answered]:
        if not missing:
            return
        if self._model is None:
            self._model = OpenModel(self.source)
        with self._model.answerer(catalogue, self.strategy) as answerer:
            yield from answerer.answers(missing)

    def _still_valid(
        self, asked: Sequence[Question], known: dict[str, dict[str, Any]], catalogue: Catalogue
    ) -> dict[str, dict[str, Any]]:
        """The records that would come out the same."""
        if not known:
            return {}
        prompting = self.source.prompting(catalogue)
        valid = {}
        for question in asked:
            record = known.get(question.id)
            if record is None or record.get("database") != question.database:
                continue
            if record.get("key") == self._key(question, prompting.prompt(question).text):
                valid[question.id] = record
        return valid

    def _key(self, question: Question, prompt: str) -> str:
        """A digest of all that an answer depends on."""
        config = self.source.config
        parts = [
            FORMAT,
            self.source.digest,
            asdict(self.strategy),
            config.prompt.max_prompt_tokens,
            config.prompt.max_completion_tokens,
            config.model.chat_template,
            config.limits.model_dump(mode="json"),
            # What a server answers with is its own affair, as far as its name tells.
            [config.generation.engine, config.generation.url, config.generation.served_model],
            config.generation.constrain,
            self._contents.get(question.database),
            prompt,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _record(self, answered: Answered) -> dict[str, Any]:
        asked = answered.question
        record: dict[str, Any] = {
            "id": asked.id,
            "database": asked.database,
            "sql": answered.sql,
            "key": self._key(asked, answered.prompt),
        }
        if self.strategy.samples and answered.samples:
            record["greedy"] = answered.samples[0]
            # pass@k is of the draws alone, which are made alike; the greedy answer is not.
            record["samples"] = list(answered.samples[1:])
            record["reason"] = answered.reason
        if answered.cause:
            record["cause"] = answered.cause
        if answered.cut:
            record["cut"] = answered.cut
        if answered.repaired is not None:
            tried = answered.repaired
            record["repair"] = {
                "sql": tried.sql,
                "message": tried.message,
                "second": tried.second,
                "taken": tried.taken,
            }
        return record


def _notes(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    notes: Counter[str] = Counter()
    for record in records:
        if cause := record.get("cause"):
            notes[f"no answer: {cause}"] += 1
        notes["answers cut at prompt.max_completion_tokens"] += record.get("cut", 0)
        if repair := record.get("repair"):
            notes["second tries"] += 1
            notes["second tries taken"] += bool(repair["taken"])
    return {what: number for what, number in notes.items() if number}


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _write(path: Path, records: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(map(_line, records))
    partial.replace(path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a file by id, as far as they are whole: a killed run may have cut the last."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(record, dict)
            and isinstance(record.get("id"), str)
            and isinstance(record.get("sql"), str)
            and isinstance(record.get("samples", []), list)
        ):
            found[record["id"]] = record
    return found
