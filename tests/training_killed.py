"""Trainings killed with SIGKILL at random moments until one comes to its end:
`python training_killed.py FOLDER CHECKPOINT`.

Writes for full and LoRA training the weights and curve of an uninterrupted one and of a killed one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import CPU, corpus, tiny_settings
from safetensors.torch import save_file
from training_items import sequences, settings

from spftcore.config import Config, LoopConfig
from spftcore.models import LanguageModel, build_tiny, load
from spftcore.training.checkpoints import Checkpoints
from spftcore.training.loop import fit
from spftcore.training.objectives import Supervised

STEPS = 12
KILLS = 6


def train(build: Callable[[], LanguageModel], output: Path, pipe: int) -> None:
    """Trains with dropout, saves its state after every step, and says so after each on a pipe."""
    model = build()
    curve = []

    def report(step: int, statistics: dict[str, float]) -> None:
        curve.append({"step": step, **statistics})
        os.write(pipe, b".")

    fit(
        model,
        sequences(40, seed=5),
        Supervised(),
        settings(steps=STEPS, batch_size=4, warmup=0.2),
        seed=11,
        dropout=True,
        report=report,
        loop=LoopConfig(),
        checkpoints=Checkpoints(output / "state", steps=1),
    )
    (output / "curve.json").write_text(json.dumps(curve))
    trained = {n: p.detach() for n, p in model.model.named_parameters() if p.requires_grad}
    save_file(trained, output / "weights.safetensors")


def started(build: Callable[[], LanguageModel], output: Path) -> tuple[int, int]:
    """(process, the pipe it reports on) of a training; it is forked, since importing takes long."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        train(build, output, writer)
        os._exit(0)
    os.close(writer)
    return child, reader


def killed_until_done(build: Callable[[], LanguageModel], output: Path) -> None:
    chance = random.Random(3)
    for kill in range(KILLS + 1):
        child, pipe = started(build, output)
        # A resumed training reports what it has done before at once. Somewhere in the two steps
        # that follow, it is killed: while it computes, while it saves, in between.
        done = len(list((output / "state").glob("step_*")))
        awaited = chance.randint(1, 2) + (0 if not done else last_step(output))
        while kill < KILLS and awaited > 0 and os.read(pipe, 1):
            awaited -= 1
        if kill < KILLS:
            for _ in range(chance.randrange(200_000)):
                pass
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(pipe)
        if status == 0:
            (output / "kills").write_text(str(kill))
            return
        assert os.WIFSIGNALED(status), "the training failed by itself"


def last_step(output: Path) -> int:
    names = [f.name for f in (output / "state").glob("step_*") if not f.suffix]
    return max(int(name.removeprefix("step_")) for name in names) if names else 0


def main(folder: Path, checkpoint: Path) -> None:
    torch.set_num_threads(1)
    lora = Config.model_validate({"lora": {"rank": 4, "dropout": 0.2}})
    cases: dict[str, Callable[[], LanguageModel]] = {
        "full": lambda: build_tiny(tiny_settings(dropout=0.2), corpus(), seed=1),
        "lora": lambda: load(checkpoint, lora, device=CPU, new_adapter=True),
    }
    for name, build in cases.items():
        build()  # imports what the children need
        for kind in ("whole", "killed"):
            (folder / name / kind).mkdir(parents=True)
        child, pipe = started(build, folder / name / "whole")
        killed_until_done(build, folder / name / "killed")
        assert os.waitpid(child, 0)[1] == 0, "the uninterrupted training failed"
        os.close(pipe)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
