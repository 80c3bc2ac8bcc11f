"""One training alone, as two DDP processes and as two FSDP2 processes, all on the CPU:
`python training_processes.py FOLDER` writes into `alone`, `ddp_0`, `ddp_1`, `fsdp_0`, `fsdp_1`."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from conftest import corpus, tiny_settings
from safetensors.torch import save_file
from training_items import copy_of, preference_pairs, sequences, settings

from spftcore.config import LoopConfig
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel, build_tiny
from spftcore.training.checkpoints import Checkpoints
from spftcore.training.loop import fit
from spftcore.training.objectives import Preference, Supervised

WEIGHTS, GRADIENTS = "weights.safetensors", "gradients.safetensors"


class Killed(Exception):
    """Ends a training as SIGKILL would."""


def run(
    output: Path, state: Path | None, model: LanguageModel, cases: dict[str, tuple[Any, Any]]
) -> None:
    """Trains on each case; writes weights, gradients of the last step, and curves.

    With a folder for its state, the training is broken off in its third step and resumed.
    """
    for name, (items, objective) in cases.items():
        for kill_at in (0,) if state is None else (3, 0):
            trained = copy_of(model)
            losses: list[dict[str, float]] = []

            def report(
                step: int,
                statistics: dict[str, float],
                losses: list[dict[str, float]] = losses,
                kill_at: int = kill_at,
            ) -> None:
                losses.append(statistics)
                if step == kill_at:
                    raise Killed

            with suppress(Killed):
                fit(
                    trained,
                    items,
                    objective,
                    settings(steps=4, batch_size=8),
                    seed=3,
                    dropout=False,
                    report=report,
                    loop=LoopConfig(tokens_per_pass=40),
                    checkpoints=Checkpoints(state / name, steps=2) if state else None,
                )
        folder = output / name
        folder.mkdir(parents=True)
        (folder / "curve.json").write_text(json.dumps(losses))
        parameters = dict(trained.model.named_parameters())
        save_file({n: whole(p.grad) for n, p in parameters.items()}, folder / GRADIENTS)
        save_file({n: whole(p.detach()) for n, p in parameters.items()}, folder / WEIGHTS)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def join(group: str, rank: int, port: int) -> None:
    """What `torchrun --nproc-per-node 2` gives a process; `fsdp` asks accelerate for FSDP2."""
    launched = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }
    if group == "fsdp":
        launched |= {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": 2,
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_RESHARD_AFTER_FORWARD": "true",
        }
    os.environ |= {key: str(value) for key, value in launched.items()}
    if group == "fsdp":
        # accelerate offers FSDP2 on accelerators only; PyTorch has it on the CPU too.
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def main(output: Path) -> None:
    torch.set_num_threads(1)
    model = build_tiny(tiny_settings(), corpus(), seed=1)
    opponent = build_tiny(tiny_settings(), corpus(), seed=2)
    opponent.model.eval()
    cases: dict[str, tuple[Any, Any]] = {
        "supervised": (sequences(24, seed=1), Supervised()),
        "spft": (preference_pairs(opponent, 24, seed=1), Preference(LossConfig("spft", 0.5))),
    }
    children = []
    for group in ("ddp", "fsdp"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(2):
            # Forked, since importing takes longer than everything else here.
            child = os.fork()
            if child == 0:
                join(group, rank, port)
                run(output / f"{group}_{rank}", output / group, model, cases)
                return
            children.append(child)
    run(output / "alone", None, model, cases)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "a process of a group failed"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
