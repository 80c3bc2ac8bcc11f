"""What every stage works with: settings, store, catalogue, and the steps stages share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from spftcore import models
from spftcore.config import Config, TrainConfig
from spftcore.databases import Catalogue
from spftcore.encoding import Encoder
from spftcore.models import LanguageModel
from spftcore.pairs import Pair
from spftcore.processes import Processes
from spftcore.prompts import PromptRenderer, parse_sql
from spftcore.rollout.engines import Engines
from spftcore.rollout.grammar import sql_grammar
from spftcore.rollout.requests import Finish, Sampling
from spftcore.rollout.verifying import Tally, judged
from spftcore.store import Answer, StageWriter, Store
from spftcore.training.checkpoints import Checkpoints, training_folder
from spftcore.training.groups import Group, TokenSequence
from spftcore.training.items import TrainingSet, digest
from spftcore.training.loop import fit, progress_line
from spftcore.training.objectives import Objective
from spftcore.training.stopping import Stop
from spftcore.verify import Executor, Limits, Status, Verdict

Progress = Callable[[int, int, str], None]
BLOCK = 2048  # pairs that are encoded together
METRICS_PER_STAGE = 100  # training curves keep about so many points


def catalogue_folder(directory: Path) -> Path:
    """Where a run keeps what it has read of the databases."""
    return directory / "catalogue"


@dataclass
class RunContext:
    """One process's view of a run.

    Attributes:
        config: resolved settings.
        directory: the run's folder.
        store: this process's connection to the run store.
        databases: folder of the SQLite files.
        progress: called with (done, total, text) of the stage at work.
        stop: asks training to save its state and end.
        processes: that run the stage together.
        engines: what generates.
    """

    config: Config
    directory: Path
    store: Store
    databases: Path
    progress: Progress
    stop: Stop = field(default_factory=Stop)
    processes: Processes = field(default_factory=Processes)
    engines: Engines = field(default_factory=Engines)
    dropped: dict[str, int] = field(default_factory=dict)
    _trimmed: set[tuple[str, bool]] = field(default_factory=set)
    _finishes: Counter[Finish] = field(default_factory=Counter)
    _tally: Tally = field(default_factory=Tally)

    @cached_property
    def catalogue(self) -> Catalogue:
        cache = catalogue_folder(self.directory)
        return Catalogue.from_settings(self.config.data, self.databases, cache)

    @cached_property
    def renderer(self) -> PromptRenderer:
        return PromptRenderer(
            self.config.prompt,
            self.catalogue,
            seed=self.config.run.seed,
            device=self.device if self.config.prompt.reranker else None,
        )

    @cached_property
    def device(self) -> torch.device:
        return models.pick_device(self.config)

    @cached_property
    def executor(self) -> Executor:
        limits = Limits(steps=self.config.limits.steps, seconds=self.config.limits.seconds)
        if self.config.cluster.address != "none":
            from spftcore.cluster.run import open_executor  # Ray is an extra

            return open_executor(self.config, limits, self.processes.size)
        return Executor(threads=torch.get_num_threads(), limits=limits)

    def seed(self, *names: object) -> int:
        """A seed for one purpose, from the run's seed and the purpose's name."""
        text = ":".join(str(name) for name in (self.config.run.seed, *names))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    # -- checkpoints ---------------------------------------------------------------------------

    def save(self, model: LanguageModel, name: str) -> str:
        """Saves a checkpoint of the run; its path is given within the run's folder, which may be
        moved between a stop and a resume."""
        path = f"checkpoints/{name}"
        weights = models.gathered(model)
        self.processes.once(lambda: models.save(model, self.directory / path, weights))
        model.folder = str(self.directory / path)
        return path

    def load(self, path: str | Path, *, new_adapter: bool = False) -> LanguageModel:
        """Loads a checkpoint of the run, or the user's model."""
        own = self.directory / path
        source = own if own.is_dir() else path
        return models.load(source, self.config, device=self.device, new_adapter=new_adapter)

    def close(self) -> None:
        """Ends the executor's threads, if any were started, and lets the engine rest."""
        try:
            self.engines.rest()
        finally:
            if "executor" in self.__dict__:
                self.executor.close()

    # -- encoding ------------------------------------------------------------------------------

    def encode_prompt(self, model: LanguageModel, prompt: str) -> tuple[int, ...]:
        """Token ids of a prompt, through the chat template where there is one.

        Raises:
            SpftError: the chat template fails.
        """
        return self._encoder(model).prompt(prompt)

    def encode(
        self, model: LanguageModel, prompt: str, completion: str, identifier: str
    ) -> TokenSequence:
        """Prompt and completion encoded apart: no token may span the border."""
        return TokenSequence(
            self.encode_prompt(model, prompt),
            self.encode_completion(model, completion),
            identifier,
        )

    def encode_completion(self, model: LanguageModel, completion: str) -> tuple[int, ...]:
        """Token ids of a completion, ended by end-of-sequence."""
        return self._encoder(model).completion(completion)

    def _encoder(self, model: LanguageModel) -> Encoder:
        return Encoder(model.tokenizer, chat_template=self.config.model.chat_template)

    def within_limits(self, sequence: TokenSequence) -> bool:
        """Whether a sequence may be trained on; the ones that may not are counted by cause."""
        limits = self.config.prompt
        if len(sequence.prompt) > limits.max_prompt_tokens:
            cause = "prompt too long"
        elif len(sequence.completion) > limits.max_completion_tokens + 1:  # end-of-sequence
            cause = "completion too long"
        else:
            return True
        self.dropped[cause] = self.dropped.get(cause, 0) + 1
        return False

    def take_dropped(self) -> dict[str, int]:
        """The sequences dropped since the last call, by cause."""
        dropped, self.dropped = self.dropped, {}
        return dropped

    def training_set(
        self, pairs: Sequence[Pair], encoded: Callable[[Pair], TokenSequence]
    ) -> TrainingSet[TokenSequence]:
        """Pairs to train on, each encoded when it is drawn; one over the limits is passed over and
        counted."""

        def make(pair: Pair) -> TokenSequence | None:
            sequence = encoded(pair)
            return sequence if self.within_limits(sequence) else None

        texts = (text for p in pairs for text in (p.id, p.question, p.sql, p.evidence))
        return TrainingSet(pairs, make, len, digest(texts))

    def text_to_sql_set(
        self, model: LanguageModel, pairs: Sequence[Pair]
    ) -> TrainingSet[TokenSequence]:
        """Pairs as sequences of the text-to-SQL direction."""
        return self.training_set(pairs, lambda pair: self.text_to_sql_sequence(model, pair))

    def text_to_sql_sequence(self, model: LanguageModel, pair: Pair) -> TokenSequence:
        """A pair's prompt with its SQL as its completion."""
        return self.encode(model, self.prompt(model, pair, training=True), pair.sql, pair.id)

    def text_to_sql_group(self, model: LanguageModel, pair: Pair, *sql: str) -> Group:
        """A pair's prompt, encoded once, with each query as a completion."""
        prompt = self.encode_prompt(model, self.prompt(model, pair, training=True))
        return Group(prompt, tuple(self.encode_completion(model, text) for text in sql))

    def prompt(self, model: LanguageModel, pair: Pair, *, training: bool) -> str:
        """The prompt of a pair: a pure function of the pair, the purpose, and the tokenizer.

        Args:
            model: whose tokenizer counts the tokens of `prompt.max_prompt_tokens`.
            pair: the question.
            training: whether the pair's SQL is learned from this prompt, or was before; the prompt
                then shows what the SQL needs. Self-play uses it for gold and answer alike, since
                the loss compares two completions of one prompt.
        """
        return self.renderer.text_to_sql(
            pair.question,
            pair.database,
            pair.evidence,
            gold=pair.sql if training else "",
            pair=pair.id,
            fits=self._fits(model, (pair.id, training)),
        )

    def question_prompt(self, model: LanguageModel, sql: str, database: str, draft: str) -> str:
        """The prompt of the SQL-to-Text direction for one masked query (`sql_to_text`)."""
        fits = self._fits(model, (f"{database}:{sql}", True))
        return self.renderer.sql_to_text(sql, database, draft, fits=fits)

    def _fits(self, model: LanguageModel, key: tuple[str, bool]) -> Callable[[str], bool]:
        limit = self.config.prompt.max_prompt_tokens

        def fits(text: str) -> bool:
            if len(self.encode_prompt(model, text)) <= limit:
                return True
            self._trimmed.add(key)
            return False

        return fits

    def prompt_notes(self) -> dict[str, int]:
        """How many prompts of the stage were trimmed, and how many answers are none or a part."""
        trimmed = set().union(*self.processes.each(self._trimmed))
        finishes = sum(self.processes.each(self._finishes), Counter[Finish]())
        notes = {
            "schema trimmed to prompt.max_prompt_tokens": len(trimmed),
            "no answer: prompt too long": finishes["too_long"],
            "no answer: the engine failed": finishes["failed"],
            "cut at prompt.max_completion_tokens": finishes["length"],
        }
        return {cause: count for cause, count in notes.items() if count}

    def answer_counts(self) -> dict[str, int]:
        """How many answers the stage judged, and how many of them differ (in each process)."""
        tallies = self.processes.each(self._tally)
        answers = sum(tally.answers for tally in tallies)
        distinct = sum(tally.distinct for tally in tallies)
        return {"answers judged": answers, "distinct answers": distinct} if answers else {}

    def cluster_notes(self) -> dict[str, int]:
        """What a cluster lost, fetched and gave up in the stage, if there is one."""
        own: Counter[str] = Counter()
        if self.config.cluster.address != "none":
            if "executor" in self.__dict__:
                counters = self.executor.counters
                own["worker lost"] = counters["workers_lost"]
                own["item whose workers were lost each time"] = counters["items_given_up"]
                own["database fetched to a node"] = counters["databases_fetched"]
            own += self.engines.lost()
        return dict(sum(self.processes.each(own), Counter[str]()))

    # -- steps that stages share ---------------------------------------------------------------

    def train(
        self,
        stage: StageWriter,
        model: LanguageModel,
        items: Sequence[object | None],
        objective: Objective,
        settings: TrainConfig,
        *,
        dropout: bool,
    ) -> None:
        """Trains in place, records the curve, and reports progress.

        A stage that was stopped at work trains on from its last training checkpoint.
        """
        every = max(1, settings.steps // METRICS_PER_STAGE)
        skipped = 0

        def report(step: int, statistics: Mapping[str, float]) -> None:
            nonlocal skipped
            skipped += "skipped" in statistics
            if step % every == 0 or step == settings.steps:
                for name, value in statistics.items():
                    stage.metric(step, name, value)
            self.progress(step, settings.steps, progress_line(statistics))

        model.folder = ""  # it will be another one
        loop = self.config.training
        folder = training_folder(self.directory, stage.stage)
        fit(
            model,
            items,
            objective,
            settings,
            seed=self.seed(stage.stage),
            dropout=dropout,
            report=report,
            loop=loop,
            checkpoints=Checkpoints(folder, loop.save_seconds, loop.save_steps),
            stop=self.stop,
        )
        dropped = self.take_dropped()
        if skipped:
            dropped["step without a finite loss and gradient"] = skipped
        stage.rejections("train", dropped)

    def generate(self, model: LanguageModel, prompts: Sequence[str]) -> list[str]:
        """Greedy completions as text; each process generates its share. A prompt over the limit
        gets an empty completion."""
        own = self.processes.share(prompts)
        texts = dict(self.completions(model, own))
        return self.processes.merged([texts[place] for place in range(len(own))])

    def completions(
        self,
        model: LanguageModel,
        prompts: Sequence[str],
        grammars: Sequence[str | None] | None = None,
    ) -> Iterator[tuple[int, str]]:
        """Greedy completions with the places of their prompts, in the order in which they are
        finished; each within its grammar, where there are grammars."""
        limits = self.config.prompt
        engine, adapter = self.engines.of(
            model, self.config, self.directory, processes=self.processes.size
        )
        sampling = Sampling(max_new_tokens=limits.max_completion_tokens)
        done = 0
        for start in range(0, len(prompts), BLOCK):  # only a block's prompts are held as tokens
            block = range(start, min(start + BLOCK, len(prompts)))
            encoded = {i: self.encode_prompt(model, prompts[i]) for i in block}
            kept = [i for i, ids in encoded.items() if len(ids) <= limits.max_prompt_tokens]
            self._finishes["too_long"] += len(block) - len(kept)
            done += len(block) - len(kept)
            yield from ((i, "") for i in block if len(encoded[i]) > limits.max_prompt_tokens)
            if grammars is not None:
                sampling = replace(sampling, grammars=tuple(grammars[i] for i in kept))
            for completion in engine.generate(
                [encoded[i] for i in kept], sampling, adapter=adapter
            ):
                self._finishes[completion.finish] += 1
                done += 1
                self.progress(done, len(prompts), "generating")
                yield kept[completion.prompt], completion.text

    def _grammars(self, pairs: Sequence[Pair]) -> list[str | None] | None:
        """What `generation.constrain` holds each pair's answer to."""
        if not self.config.generation.constrain:
            return None
        found = {name: sql_grammar(self.catalogue[name]) for name in {p.database for p in pairs}}
        return [found[pair.database] for pair in pairs]

    def answer(
        self,
        model: LanguageModel,
        candidate: str,
        pairs: Sequence[Pair],
        *,
        evaluation: bool = False,
        training: bool = False,
    ) -> list[Answer]:
        """A candidate's greedy SQL for each pair's question, judged by execution; each process
        takes its share.

        Args:
            model: the candidate.
            candidate: its name, for the record.
            pairs: questions and golds.
            evaluation: score rather than teach. An empty result that equals an empty gold is then
                right, as the benchmarks count it, and an answer stopped by the clock is wrong; in
                training both are unjudged, since nothing can be learned from them.
            training: ask with the prompts that the pairs are trained on.
        """
        own = self.processes.share(pairs)
        return self.processes.merged(self._answer(model, candidate, own, evaluation, training))

    def _answer(
        self,
        model: LanguageModel,
        candidate: str,
        pairs: Sequence[Pair],
        evaluation: bool,
        training: bool,
    ) -> list[Answer]:
        prompts = [self.prompt(model, pair, training=training) for pair in pairs]
        questions = [(self.catalogue[pair.database].path, pair.sql) for pair in pairs]
        texts = self.completions(model, prompts, self._grammars(pairs))
        queries = ((place, parse_sql(text)) for place, text in texts)
        answers: dict[int, Answer] = {}
        for place, sql, result in judged(self.executor, questions, queries, tally=self._tally):
            pair = pairs[place]
            verdict = result.verdict
            message = result.candidate.message or result.reason
            status = result.candidate.status
            if verdict is Verdict.RIGHT and result.both_empty and not evaluation:
                verdict, message = Verdict.UNJUDGED, "both results are empty"
            if status is Status.TIME_BUDGET and result.gold.ran and evaluation:
                verdict = Verdict.WRONG
            answers[place] = Answer(
                pair.id, candidate, sql, status.name.lower(), verdict.name.lower(), message
            )
        return [answers[place] for place in range(len(pairs))]
