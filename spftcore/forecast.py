"""What a run would do: its stages, their sizes, the time and the memory they need here.

Rates are measured on the spot: a few optimizer steps and one batch of generation with the run's
own model and prompts. The forecast replays the plan on as many workers as the run would have.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from spftcore import memory, models
from spftcore.config import Config
from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.pairs import Pair
from spftcore.runner import workers_and_threads
from spftcore.stages import vbi
from spftcore.stages.context import RunContext
from spftcore.stages.plan import Stage, plan
from spftcore.stages.prepare import SPLIT_OFF, databases_folder, read_inputs
from spftcore.store import Store
from spftcore.synthesis import TemplatePool, synthesize_sql
from spftcore.synthesis.questions import write_questions
from spftcore.training.loop import fit
from spftcore.training.objectives import Supervised

TRIAL_STEPS = 5
SAMPLED = 2000  # seeds whose prompts are measured
EXAMPLES = 100  # pairs that stand for them where there are none
PAIR_COST = 2.0  # a preference step holds two sequences for each of a supervised step's one


def print_forecast(config: Config, console: Console) -> None:
    """Prints the plan with sizes and times; nothing is kept.

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
        for line in memory_lines:
            console.print(line, highlight=False)
        model, step_seconds, answer_seconds = _rates(context, sample, model)
        context.close()
        questions = len(held_out) or round(len(seeds) * SPLIT_OFF)
        questions = min(questions, config.data.max_test or questions)
        rows = [
            (stage, *_size(config, stage, len(seeds), questions, step_seconds, answer_seconds))
            for stage in plan(config)
        ]
        store.close()
    table = Table(title=f"{config.run_directory}: what would be done")
    for name in ("stage", "work", "about"):
        table.add_column(name, justify="right" if name == "about" else "left")
    for stage, work, seconds in rows:
        table.add_row(stage.name, work, _clock(seconds))
    console.print(table)
    total = _replay([(stage, seconds) for stage, _, seconds in rows], workers)
    console.print(
        f"{len(catalogue)} databases, {len(seeds)} seed pairs, {questions} questions to evaluate; "
        f"model of {model.parameters():,} parameters on {model.device}.\n"
        f"About {_clock(total)} with {workers} worker(s) of {threads} thread(s).",
        highlight=False,
    )


def require_memory(config: Config) -> list[str]:
    """What training and generation will hold in memory, in words; nothing is loaded or written.

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
            return _fits(context, seeds or _examples(context))[1]
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


def _fits(context: RunContext, seeds: list[Pair]) -> tuple[LanguageModel | None, list[str]]:
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
    free = memory.available(context.device) // workers
    place = f"on {context.device}" + (f" for each of {workers} workers" if workers > 1 else "")
    try:
        return tiny, memory.check(architecture, tokenizer, config, groups, free, place)
    except SpftError:
        raise
    except Exception as error:  # a model with its own code may not run without data
        return tiny, [f"The memory that it needs could not be counted ({error})."]


def _rates(
    context: RunContext, seeds: list[Pair], model: LanguageModel | None
) -> tuple[LanguageModel, float, float]:
    """(model, seconds per supervised step, seconds per answer), measured."""
    config = context.config
    if model is None:
        assert config.model.name_or_path is not None
        model = context.load(config.model.name_or_path, new_adapter=True)
    sample = seeds[: max(config.vbi.batch_size, config.generation.batch_size)]
    items = context.text_to_sql_set(model, sample)
    settings = config.vbi.model_copy(update={"steps": TRIAL_STEPS})
    times: list[float] = []
    fit(
        model,
        items,
        Supervised(),
        settings,
        seed=0,
        dropout=True,
        report=lambda *_: times.append(time.monotonic()),
    )
    step_seconds = (times[-1] - times[0]) / (len(times) - 1)
    start = time.monotonic()
    prompts = [context.renderer.text_to_sql(p.question, p.database, p.evidence) for p in sample]
    context.generate(model, prompts)
    return model, step_seconds, (time.monotonic() - start) / len(sample)


def _size(
    config: Config, stage: Stage, seeds: int, questions: int, step: float, answer: float
) -> tuple[str, float]:
    """(the work in words, seconds) of one stage."""
    stage_1, play = config.vbi, config.self_play
    name = stage.name
    if name == "prepare":
        return f"{seeds} pairs checked", 2.0
    if name == "base":
        steps = 0 if config.model.name_or_path else config.base.steps
        return f"{steps} steps", steps * step
    if name == "sft":
        steps = stage_1.steps * stage_1.rounds
        return f"{steps} steps", steps * step
    if name.startswith("sql_to_text"):
        scratch = name.endswith("_0") and config.model.name_or_path is None
        steps = config.sql_to_text.scratch_steps if scratch else config.sql_to_text.steps
        return f"{steps} steps", steps * step
    if name.endswith("_synthesize"):
        queries = round((stage_1.count + stage_1.feedback + stage_1.ranking) * vbi.QUERIES_PER_PAIR)
        # The round trip answers every question, and the rule's where the model's failed.
        each = 2.5 if config.sql_to_text.round_trip else 1.0
        return f"{queries} questions", queries * answer * each
    if name.startswith("vbi") and name.endswith("_train"):
        return f"{stage_1.steps} steps", stage_1.steps * step
    if name.endswith("_feedback"):
        count = stage_1.feedback + stage_1.ranking
        return f"{count} answers", count * answer
    if name.endswith("_answers"):
        own = name.startswith(("self_play", "dpo"))
        available = seeds + (stage_1.rounds * (stage_1.count + stage_1.feedback) if own else 0)
        count = min(play.pairs or available, available)
        return f"{count} answers", count * answer * 1.5
    if name.endswith("_train"):
        return f"{play.steps} steps on pairs", play.steps * step * PAIR_COST
    if name.startswith("evaluate"):
        return f"{questions} answers", questions * answer
    return "copy of the best model", 1.0


def _replay(stages: list[tuple[Stage, float]], workers: int) -> float:
    """Seconds until the last stage ends when at most `workers` run side by side."""
    ends: dict[str, float] = {}
    free = [0.0] * workers
    waiting = list(stages)
    while waiting:
        # The stage that can start first; of several, the first in the plan.
        ready = [
            (max([min(free), *(ends[need] for need in stage.needs)]), i)
            for i, (stage, _) in enumerate(waiting)
            if all(need in ends for need in stage.needs)
        ]
        start, index = min(ready)
        stage, seconds = waiting.pop(index)
        free[free.index(min(free))] = ends[stage.name] = start + seconds
    return max(ends.values())


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
