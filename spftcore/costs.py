"""What a run costs: the work of each stage in tokens, queries and bytes, and the time by rates.

The same model serves the forecast of a run on the machine at hand (`--dry-run`, rates measured on
the spot) and the plans for larger ones (`docs/scaling.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from spftcore.config import Config
from spftcore.stages.plan import Stage, plan
from spftcore.stages.vbi import QUERIES_PER_PAIR

# With the round trip, the text-to-SQL model answers every question of the SQL-to-Text model, and
# the rule's where that one fails a check.
ROUND_TRIPS = 1.5
# Self-play answers are judged once; golds are run when they are read, styled and compared.
RUNS_PER_GOLD = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a run's cost depends on beside its settings.

    Attributes:
        seeds: pairs that are trained on.
        questions: of the evaluation, development and test together.
        prompt: tokens of a text-to-SQL prompt, mean.
        sql: tokens of a query, end-of-sequence included, mean.
        question_prompt: tokens of an SQL-to-Text prompt, mean.
        question: tokens of a question, mean.
        model_bytes: of a checkpoint.
        saved_bytes: of what a training writes: the model again, or an adapter.
    """

    seeds: int
    questions: int
    prompt: float
    sql: float
    question_prompt: float
    question: float
    model_bytes: float
    saved_bytes: float


@dataclass(frozen=True, slots=True)
class Work:
    """Amounts of work, or of each the rate per second, or the seconds of each.

    Attributes:
        trained: tokens through the forward and the backward pass.
        scored: tokens through the forward pass alone.
        read: prompt tokens before generation.
        written: generated tokens.
        verified: queries run and compared.
        queries: synthesized queries that are kept.
        moved: bytes of models read and written.
    """

    trained: float = 0.0
    scored: float = 0.0
    read: float = 0.0
    written: float = 0.0
    verified: float = 0.0
    queries: float = 0.0
    moved: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self.amounts(), other.amounts(), strict=True)))

    def amounts(self) -> tuple[float, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def at(self, rates: Work) -> Work:
        """The seconds of each kind of work at these rates; what is not done takes none."""
        pairs = zip(self.amounts(), rates.amounts(), strict=True)
        return Work(*(amount / rate if amount else 0.0 for amount, rate in pairs))

    @property
    def total(self) -> float:
        """Of seconds: their sum."""
        return sum(self.amounts())

    @property
    def bottleneck(self) -> str:
        """Of seconds: the kind of work that takes most."""
        return max(fields(self), key=lambda field: getattr(self, field.name)).name


def work(config: Config, sizes: Sizes) -> list[tuple[Stage, Work]]:
    """The work of every stage of a run, in the order of its plan."""
    return [(stage, _of_stage(config, sizes, stage.name)) for stage in plan(config)]


def _of_stage(config: Config, sizes: Sizes, name: str) -> Work:
    rounds, play = config.vbi, config.self_play
    example = sizes.prompt + sizes.sql
    load = Work(moved=sizes.model_bytes)
    save = Work(moved=sizes.saved_bytes)
    ranking = _answers(sizes, rounds.ranking)
    if name == "prepare":
        return Work(verified=RUNS_PER_GOLD * sizes.seeds + sizes.questions)
    if name == "base":
        if config.model.name_or_path is not None:
            return load
        return Work(trained=config.base.steps * config.base.batch_size * example) + save
    if name == "sft":
        steps = rounds.steps * rounds.rounds
        return Work(trained=steps * rounds.batch_size * example) + load + save
    if name.startswith("sql_to_text"):
        training = config.sql_to_text
        scratch = name.endswith("_0") and config.model.name_or_path is None
        steps = training.scratch_steps if scratch else training.steps
        each = sizes.question_prompt + sizes.question
        return Work(trained=steps * training.batch_size * each) + load + save
    if name.endswith("_synthesize"):
        first = name == "vbi_1_synthesize"
        wanted = rounds.count + rounds.feedback + (rounds.ranking if first else 0)
        queries = wanted * QUERIES_PER_PAIR
        asked = Work(read=queries * sizes.question_prompt, written=queries * sizes.question)
        total = Work(queries=queries) + asked + load
        if config.sql_to_text.round_trip:
            total += _answers(sizes, ROUND_TRIPS * queries) + load
        return total
    if name.startswith("vbi") and name.endswith("_train"):
        return Work(trained=rounds.steps * rounds.batch_size * example) + load + save
    if name.endswith("_feedback"):
        return _answers(sizes, rounds.feedback) + ranking + load
    if name.endswith("_answers"):
        if name.startswith("dpo") and name != "dpo_1_answers":
            return Work()  # its reference, and so its answers, stay those of the first iteration
        own = name.startswith(("self_play", "dpo"))
        synthesized = rounds.rounds * (rounds.count + rounds.feedback) if own else 0
        available = sizes.seeds + synthesized
        count = min(play.pairs or available, available)
        scored = Work(scored=count * (sizes.prompt + 2 * sizes.sql))
        return _answers(sizes, count) + scored + load
    if name.endswith("_train"):
        pair = sizes.prompt + 2 * sizes.sql
        total = Work(trained=play.steps * play.batch_size * pair) + load + save
        return total + ranking if name.startswith("self_play") else total
    if name.startswith("evaluate"):
        return _answers(sizes, sizes.questions) + load
    return save  # the export


def _answers(sizes: Sizes, count: float) -> Work:
    return Work(read=count * sizes.prompt, written=count * sizes.sql, verified=count)


def replay(seconds: Sequence[tuple[Stage, float]], workers: int) -> float:
    """Seconds until the last stage ends when at most `workers` run side by side."""
    ends: dict[str, float] = {}
    free = [0.0] * workers
    waiting = list(seconds)
    while waiting:
        # The stage that can start first; of several, the first in the plan.
        ready = [
            (max([min(free), *(ends[need] for need in stage.needs)]), i)
            for i, (stage, _) in enumerate(waiting)
            if all(need in ends for need in stage.needs)
        ]
        start, index = min(ready)
        stage, needed = waiting.pop(index)
        free[free.index(min(free))] = ends[stage.name] = start + needed
    return max(ends.values())


def by_phase(stages: Mapping[str, Work]) -> dict[str, Work]:
    """Work, or seconds, of the phases that a reader thinks in."""
    phases: dict[str, Work] = {}
    for name, amount in stages.items():
        phase = _phase(name)
        phases[phase] = phases.get(phase, Work()) + amount
    return phases


def _phase(name: str) -> str:
    if name.startswith(("sft", "spin", "exspin", "dpo")):
        return "baselines"
    if name.startswith("evaluate"):
        return "evaluation"
    if name.startswith("sql_to_text"):
        return "SQL-to-Text training"
    if name.endswith("_synthesize"):
        return "synthesis"
    if name.endswith("_feedback"):
        return "feedback and ranking"
    if name.endswith("_answers"):
        return "opponent's answers"
    if name.endswith("_train") and name.startswith("self_play"):
        return "self-play training"
    return "fine-tuning" if name.endswith("_train") or name == "base" else "preparation"
