"""What a run would do: its stages, their sizes, the time and the memory they need here.

Rates are measured on the spot: a few optimizer steps, one batch of generation, and some SQL, all
with the run's own model and prompts (`costs.py` has the work of each stage). The forecast replays
the plan on as many workers as the run would have.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from spftcore import memory, models
from spftcore.config import Config
from spftcore.costs import Sizes, Work, replay, work
from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.pairs import Pair
from spftcore.processes import Processes
from spftcore.rollout.hf import HfEngine
from spftcore.rollout.requests import Sampling
from spftcore.runner import workers_and_threads
from spftcore.stages import self_play, vbi
from spftcore.stages.context import RunContext
from spftcore.stages.plan import Stage
from spftcore.stages.prepare import SPLIT_OFF, databases_folder, read_inputs
from spftcore.store import Store
from spftcore.synthesis import TemplatePool, synthesize_sql
from spftcore.synthesis.questions import write_questions
from spftcore.training.loop import fit
from spftcore.training.objectives import Supervised

TRIAL_STEPS = 5
SAMPLED = 2000  # seeds whose prompts are measured
EXAMPLES = 100  # pairs that stand for them where there are none
START_SECONDS = 1.0  # what a stage takes beside its work
LEAST_LOADING = 0.1  # seconds; below, a clock says little


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do here.

    Attributes:
        memory: what it needs, in words.
        databases: how many there are.
        sizes: of what it reads and writes.
        rates: what is done of each work in a second by one worker.
        stages: with the work of each and the seconds it takes.
        workers, threads: that the run would have.
        model: in words.
    """

    memory: list[str]
    databases: int
    sizes: Sizes
    rates: Work
    stages: list[tuple[Stage, Work, float]]
    workers: int
    threads: int
    model: str

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return replay([(stage, seconds) for stage, _, seconds in self.stages], self.workers)


def forecast(config: Config) -> Forecast:
    """Measures and counts; nothing is kept.

    Raises:
        SpftError: bad input, exactly as the run itself would raise it.
    """
    workers, threads = workers_and_threads(config)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        store = Store(directory / "run.sqlite")
        databases = databases_folder(config, directory)
        context = RunContext(config, directory, store, databases, lambda *_: None)
        catalogue = context.catalogue
        seeds, held_out = read_inputs(config)
        seeds = [pair for pair in seeds if pair.database in catalogue][
            : config.data.max_pairs or None
        ]
        sample = seeds or _examples(context)
        model, memory_lines = _fits(context, sample)
        model, sizes, rates = _measured(context, sample, model)
        context.close()
        store.close()
    questions = len(held_out) or round(len(seeds) * SPLIT_OFF)
    questions = min(questions, config.data.max_test or questions)
    sizes = replace(sizes, seeds=len(seeds), questions=questions)
    stages = [
        (stage, amount, START_SECONDS + amount.at(rates).total)
        for stage, amount in work(config, sizes)
    ]
    described = f"model of {model.parameters():,} parameters on {model.device}"
    return Forecast(memory_lines, len(catalogue), sizes, rates, stages, workers, threads, described)


def print_forecast(config: Config, console: Console) -> None:
    """Prints the plan with sizes and times.

    Raises:
        SpftError: as of `forecast`.
    """
    found = forecast(config)
    for line in found.memory:
        console.print(line, highlight=False)
    table = Table(title=f"{config.run_directory}: what would be done")
    for name in ("stage", "work", "about"):
        table.add_column(name, justify="right" if name == "about" else "left")
    for stage, amount, seconds in found.stages:
        table.add_row(stage.name, _in_words(amount), _clock(seconds))
    console.print(table)
    sizes = found.sizes
    console.print(
        f"{found.databases} databases, {sizes.seeds} seed pairs, {sizes.questions} questions to "
        f"evaluate; {found.model}.\n"
        f"About {_clock(found.seconds)} with {found.workers} worker(s) of {found.threads} "
        "thread(s).",
        highlight=False,
    )


def require_memory(config: Config, processes: Processes | None = None) -> list[str]:
    """What training and generation will hold in memory, in words; nothing is loaded or written.

    Args:
        config: of the run.
        processes: those that a launcher has started for it.

    Raises:
        SpftError: it does not fit into what is free; the message names settings with which it
            would. Or bad input, as the run itself would raise it.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        store = Store(directory / "run.sqlite")
        databases = databases_folder(config, directory)
        context = RunContext(config, directory, store, databases, lambda *_: None)
        seeds, _ = read_inputs(config)
        seeds = [pair for pair in seeds if pair.database in context.catalogue]
        try:
            return _fits(context, seeds or _examples(context), processes)[1]
        finally:
            context.close()
            store.close()


def _examples(context: RunContext) -> list[Pair]:
    """Pairs as a run without seeds begins with: from the built-in templates, questions by rule."""
    found = synthesize_sql(
        TemplatePool.builtin(),
        list(context.catalogue.values()),
        context.executor,
        EXAMPLES,
        random.Random(0),
    )
    return write_questions(found.queries, context.catalogue, random.Random(0)).pairs


def _fits(
    context: RunContext, seeds: list[Pair], processes: Processes | None = None
) -> tuple[LanguageModel | None, list[str]]:
    """(the tiny model where the run has no other, what the run needs in words)."""
    config = context.config
    source = config.model.name_or_path
    tiny: LanguageModel | None = None
    if source is None:
        texts = vbi.corpus(context, seeds)
        tiny = models.build_tiny(config.model, texts, config.run.seed)
        architecture, tokenizer = tiny.causal_lm.config, tiny.tokenizer
    else:
        architecture = models.architecture(source, config)
        tokenizer = models.load_tokenizer(source, config)
    measured = tiny or LanguageModel(None, tokenizer)
    groups = [context.text_to_sql_group(measured, p, p.sql, p.sql) for p in seeds[:SAMPLED]]
    limits = config.prompt
    groups = [group for group in groups if len(group.prompt) <= limits.max_prompt_tokens]
    if not seeds:
        return tiny, ["Nothing could be written from the databases, so memory was not counted."]
    if not groups:
        return tiny, [f"Every prompt is longer than {limits.max_prompt_tokens} tokens."]
    workers, _ = workers_and_threads(config)
    shards = 1
    if processes is not None and processes.size > 1:
        # Each has a GPU of its own; on the CPU they share the machine.
        workers = processes.on_machine if context.device.type == "cpu" else 1
        shards = processes.size if processes.sharding else 1
    free = memory.available(context.device) // workers
    place = f"on {context.device}" + (f" for each of {workers} workers" if workers > 1 else "")
    try:
        return tiny, memory.check(architecture, tokenizer, config, groups, free, place, shards)
    except SpftError:
        raise
    except Exception as error:  # a model with its own code may not run without data
        return tiny, [f"The memory that it needs could not be counted ({error})."]


def _measured(
    context: RunContext, seeds: list[Pair], model: LanguageModel | None
) -> tuple[LanguageModel, Sizes, Work]:
    """(model, sizes of what it reads and writes, what is done of each work in a second), measured
    on a batch of the run's own pairs."""
    config = context.config
    start = time.monotonic()
    if model is None:
        assert config.model.name_or_path is not None
        model = context.load(config.model.name_or_path, new_adapter=True)
    loading = time.monotonic() - start
    sizes = _sizes(context, model, seeds[:SAMPLED])
    sample = seeds[: max(config.vbi.batch_size, config.generation.batch_size)]
    trained = _training_rate(context, model, sample)
    read, written = _generation_rates(context, model, sample)
    golds = [(context.catalogue[pair.database].path, pair.sql) for pair in seeds[:SAMPLED]]
    start = time.monotonic()
    context.executor.execute(golds)
    verifying = time.monotonic() - start
    start = time.monotonic()
    kept = len(_examples(context))
    synthesizing = time.monotonic() - start
    rates = Work(
        trained=trained,
        scored=_scoring_rate(context, model, sample),
        read=read,
        written=written,
        verified=len(golds) / verifying,
        queries=max(1, kept) / synthesizing,
        moved=sizes.model_bytes / max(loading, LEAST_LOADING),
    )
    return model, sizes, rates


def _sizes(context: RunContext, model: LanguageModel, pairs: Sequence[Pair]) -> Sizes:
    def mean(values: Iterable[int]) -> float:
        found = list(values)
        return sum(found) / max(1, len(found))

    def tokens(text: str) -> int:
        return len(context.encode_completion(model, text))

    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    trained = (p for p in model.model.parameters() if p.requires_grad)
    asked = [context.prompt(model, pair, training=True) for pair in pairs]
    writing = [context.question_prompt(model, p.sql, p.database, p.question) for p in pairs]
    return Sizes(
        seeds=len(pairs),
        questions=0,
        prompt=mean(len(context.encode_prompt(model, text)) for text in asked),
        sql=mean(tokens(pair.sql) for pair in pairs),
        question_prompt=mean(len(context.encode_prompt(model, text)) for text in writing),
        question=mean(tokens(pair.question) for pair in pairs),
        model_bytes=weights,
        saved_bytes=sum(p.numel() * p.element_size() for p in trained),
    )


def _training_rate(context: RunContext, model: LanguageModel, sample: Sequence[Pair]) -> float:
    """Tokens a second of supervised steps."""
    rates: list[float] = []
    fit(
        model,
        context.text_to_sql_set(model, sample),
        Supervised(),
        context.config.vbi.model_copy(update={"steps": TRIAL_STEPS}),
        seed=0,
        dropout=True,
        report=lambda _, statistics: rates.append(statistics["tokens/s"]),
        loop=context.config.training,
    )
    return statistics.harmonic_mean(rates[1:])  # the first step makes the optimizer's state


def _scoring_rate(context: RunContext, model: LanguageModel, sample: Sequence[Pair]) -> float:
    """Tokens a second of log-probs without gradients."""
    groups = [context.text_to_sql_group(model, pair, pair.sql, pair.sql) for pair in sample]
    start = time.monotonic()
    self_play.logprobs(context, model, list(sample), [pair.sql for pair in sample])
    return sum(map(len, groups)) / (time.monotonic() - start)


def _generation_rates(
    context: RunContext, model: LanguageModel, sample: Sequence[Pair]
) -> tuple[float, float]:
    """(prompt tokens a second, generated tokens a second)."""
    engine = HfEngine(model, batch_size=context.config.generation.batch_size)
    prompts = [
        context.encode_prompt(model, context.prompt(model, p, training=False)) for p in sample
    ]
    times, lengths = [], []
    for limit in (1, context.config.prompt.max_completion_tokens):
        start = time.monotonic()
        completions = list(engine.generate(prompts, Sampling(max_new_tokens=limit)))
        times.append(time.monotonic() - start)
        lengths.append(sum(len(completion.ids) for completion in completions))
    reading, both = times
    further = max(1, lengths[1] - lengths[0])
    return sum(map(len, prompts)) / reading, further / max(both - reading, LEAST_LOADING)


def _in_words(amount: Work) -> str:
    """The work of a stage, its largest parts first named."""
    parts = (
        (amount.trained, "tokens trained on"),
        (amount.queries, "queries written"),
        (amount.written, "tokens generated"),
        (amount.scored, "tokens scored"),
        (amount.verified, "queries run"),
    )
    named = [f"{_short(count)} {what}" for count, what in parts if count]
    return ", ".join(named) or "files copied"


def _short(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
