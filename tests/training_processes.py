"""The same training alone (`1_0`) and as two processes of a group (`2_0`, `2_1`):
`python training_processes.py FOLDER`."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import corpus, tiny_settings
from safetensors.torch import save_file
from training_items import preference_pairs, sequences, trained

from spftcore.losses import LossConfig
from spftcore.models import LanguageModel, build_tiny
from spftcore.training.objectives import Preference, Supervised


def run(output: Path, model: LanguageModel, cases: dict[str, tuple[Any, Any]]) -> None:
    """Trains on each case; writes weights, gradients of the last step, and curves."""
    for name, (items, objective) in cases.items():
        result, reports = trained(
            model, items, objective, steps=3, batch_size=8, loop={"tokens_per_pass": 40}
        )
        folder = output / name
        folder.mkdir(parents=True)
        (folder / "curve.json").write_text(json.dumps(reports))
        parameters = dict(result.model.named_parameters())
        save_file({n: p.grad for n, p in parameters.items()}, folder / "gradients.safetensors")
        save_file({n: p.detach() for n, p in parameters.items()}, folder / "weights.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def main(output: Path) -> None:
    torch.set_num_threads(1)
    model = build_tiny(tiny_settings(), corpus(), seed=1)
    opponent = build_tiny(tiny_settings(), corpus(), seed=2)
    opponent.model.eval()
    cases: dict[str, tuple[Any, Any]] = {
        "supervised": (sequences(24, seed=1), Supervised()),
        "spft": (preference_pairs(opponent, 24, seed=1), Preference(LossConfig("spft", 0.5))),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        # Forked, since importing takes longer than everything else here.
        child = os.fork()
        if child == 0:
            launched = {  # what `accelerate launch --cpu --num_processes 2` gives its processes
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": 2,
                "LOCAL_WORLD_SIZE": 2,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "ACCELERATE_USE_CPU": "true",
            }
            os.environ |= {key: str(value) for key, value in launched.items()}
            run(output / f"2_{rank}", model, cases)
            return
        children.append(child)
    run(output / "1_0", model, cases)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "a process of the group failed"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
