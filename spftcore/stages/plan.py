"""The stages of a run and what each needs; of several that wait, the first in order goes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from spftcore.config import Config
from spftcore.stages import evaluation, self_play, vbi
from spftcore.stages.context import RunContext
from spftcore.stages.prepare import prepare
from spftcore.store import StageWriter


@dataclass(frozen=True, slots=True)
class Stage:
    """One resumable unit of a run.

    Attributes:
        name: unique; its rows in the store carry it.
        needs: stages that must be complete before.
        run: does the work in a worker process.
        by_one: of several processes, the first does all of it.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[RunContext, StageWriter], None]
    by_one: bool = False


def plan(config: Config) -> list[Stage]:
    """All stages of a run: the main line first, then the baselines, then what only measures."""
    stages = [
        Stage("prepare", (), prepare, by_one=True),
        Stage("base", ("prepare",), vbi.base),
        Stage("sql_to_text_0", ("prepare",), partial(vbi.sql_to_text, round_=0)),
    ]
    previous = "base"
    for n in range(1, config.vbi.rounds + 1):
        name = f"vbi_{n}"
        synthesize = f"{name}_synthesize"
        after: tuple[str, ...] = (f"sql_to_text_{n - 1}",)
        if n > 1 or config.sql_to_text.round_trip:  # the last round's model, or the base, answers
            after = (*after, previous)
        stages += [
            Stage(synthesize, after, partial(vbi.synthesize, round_=n)),
            Stage(f"{name}_train", (previous, synthesize), partial(vbi.train, round_=n)),
            Stage(f"{name}_feedback", (f"{name}_train",), partial(vbi.feedback, round_=n)),
        ]
        previous = f"{name}_feedback"
        if n < config.vbi.rounds:
            stages.append(
                Stage(f"sql_to_text_{n}", (previous,), partial(vbi.sql_to_text, round_=n))
            )
    vbi_end = previous
    stages += _play("self_play", vbi_end, config.self_play.iterations)
    main_end = stages[-1].name
    baselines = [
        name
        for name in dict.fromkeys(config.baselines)
        if name != "sft" and config.self_play.iterations
    ]
    if config.baselines:
        stages.append(Stage("sft", ("base",), vbi.sft))
    ends = {"base": "base", "sft": "sft", "vbi": vbi_end, "self_play": main_end}
    for name in baselines:
        stages += _play(name, vbi_end if name == "dpo" else "sft", config.self_play.iterations)
        ends[name] = stages[-1].name
    systems = ["base", *(["sft"] if config.baselines else []), *baselines, "vbi"]
    if config.self_play.iterations:
        systems.append("self_play")
    for system in systems:
        run = partial(evaluation.evaluate, system=system)
        stages.append(Stage(f"evaluate_{system}", (ends[system],), run))
    stages.append(Stage("export", (main_end,), evaluation.export, by_one=True))
    return stages


def _play(system: str, start: str, iterations: int) -> list[Stage]:
    stages = []
    previous = start
    for n in range(1, iterations + 1):
        name = f"{system}_{n}"
        answers = partial(self_play.answers, system=system, iteration=n)
        train = partial(self_play.train, system=system, iteration=n)
        stages += [
            Stage(f"{name}_answers", (previous,), answers),
            Stage(f"{name}_train", (f"{name}_answers",), train),
        ]
        previous = f"{name}_train"
    return stages
