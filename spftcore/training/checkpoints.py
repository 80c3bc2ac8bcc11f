"""The state of a training at work, saved so that a killed one goes on as if nothing had happened.

A checkpoint is a folder `step_00000042/`:

    rank_0.safetensors   trained weights, optimizer state and random state (one file per process)
    state.json           step, counts, the curve so far, and what the training is (its `identity`)
    SHA256SUMS           one line per file, as `sha256sum --check` reads it

It is written as `….partial`, flushed to the disk and renamed; the last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.models import replace_folder
from spftcore.training.items import TrainingSet, digest

KEPT = 2
SUMS = "SHA256SUMS"
_RANDOM = ("random/cpu", "random/cuda")  # the generators' names in the file
SAMPLED_SIZES = 16
FORMAT = 1  # of state.json and of the tensors' names

log = logging.getLogger(__name__)


def training_folder(run: Path, stage: str) -> Path:
    """Where a stage of a run keeps its training checkpoints; removed when the stage is complete."""
    return run / "checkpoints" / ".training" / stage


class Checkpoints:
    """The training checkpoints of one stage.

    Args:
        directory: their folder; made when the first one is written.
        seconds: save when so many seconds have passed since the last one (0: never by time).
        steps: save every so many steps (0: never by steps).
    """

    def __init__(self, directory: Path, seconds: float = 0.0, steps: int = 0) -> None:
        self.directory = directory
        self._seconds = seconds
        self._steps = steps
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one should be written after this step."""
        if self._steps and step % self._steps == 0:
            return True
        return self._seconds > 0 and time.monotonic() - self._saved_at >= self._seconds

    def save(
        self,
        accelerator: Accelerator,
        parameters: Mapping[str, Tensor],
        optimizer: Any,
        identity: Mapping[str, Any],
        step: int,
        progress: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint; every process of the training calls it.

        Args:
            accelerator: of the training.
            parameters: the trained parameters by name.
            optimizer: its optimizer.
            identity: what the training is; another one cannot go on from this checkpoint.
            step: finished steps.
            progress: JSON values that `load` gives back.
        """
        temporary = self.directory / f"{_name(step)}.partial"
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        rank = accelerator.process_index
        tensors = _random_state(accelerator.device)
        if rank == 0 or _sharded(parameters):
            for name, parameter in parameters.items():
                tensors[f"parameter/{name}"] = _stored(parameter)
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{key}/{name}"] = _stored(value)
        save_file(tensors, temporary / f"rank_{rank}.safetensors")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            state = {"format": FORMAT, "step": step, "identity": identity, "progress": progress}
            (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
            sums = [f"{_digest(path)}  {path.name}\n" for path in sorted(temporary.iterdir())]
            (temporary / SUMS).write_text("".join(sums), encoding="ascii")
            replace_folder(temporary, self.directory / _name(step))
            for old in self._present()[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def load(
        self,
        accelerator: Accelerator,
        parameters: Mapping[str, Tensor],
        optimizer: Any,
        identity: Mapping[str, Any],
    ) -> tuple[int, dict[str, Any]]:
        """Puts the newest undamaged checkpoint into the parameters, the optimizer and the random
        generators; every process of the training calls it.

        Returns:
            Its step and progress; (0, {}) where there is none.

        Raises:
            SpftError: the checkpoint belongs to another training.
        """
        step = torch.tensor(0, device=accelerator.device)
        if accelerator.is_main_process:
            step += self._newest_undamaged()
        if accelerator.num_processes > 1:
            step = broadcast(step)  # the other processes need not read every file
        if not step:
            return 0, {}
        folder = self.directory / _name(int(step))
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self._check_identity(folder, state, identity)
        rank = accelerator.process_index
        sharded = _sharded(parameters)
        with safe_open(folder / f"rank_{rank}.safetensors", "pt") as file:
            names = set(file.keys())
            random_state = {name: file.get_tensor(name) for name in names & set(_RANDOM)}
        with safe_open(folder / f"rank_{rank if sharded else 0}.safetensors", "pt") as file:
            names = set(file.keys())
            optimizer.state.clear()
            for name, parameter in parameters.items():
                with torch.no_grad():
                    _local(parameter).copy_(file.get_tensor(f"parameter/{name}"))
                values = {}
                for key in ("step", "exp_avg", "exp_avg_sq"):  # of AdamW
                    if (source := f"optimizer/{key}/{name}") in names:
                        values[key] = _like(file.get_tensor(source), parameter)
                if values:
                    optimizer.state[parameter] = values
        cpu, cuda = _RANDOM
        torch.set_rng_state(random_state[cpu])
        if cuda in random_state and accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(random_state[cuda], accelerator.device)
        return int(step), state["progress"]

    def _present(self) -> list[Path]:
        """The folders, the newest first."""
        found = self.directory.glob("step_*") if self.directory.is_dir() else ()
        return sorted((f for f in found if f.suffix != ".partial"), reverse=True)

    def _newest_undamaged(self) -> int:
        """Its step, or 0."""
        for folder in self._present():
            fault = _fault(folder)
            if fault is None:
                return int(folder.name.removeprefix("step_"))
            log.warning(
                "The training checkpoint %s is damaged (%s); the one before it is used.",
                folder,
                fault,
            )
        return 0

    def _check_identity(
        self, folder: Path, state: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> None:
        if state["format"] != FORMAT:
            raise SpftError(
                f"The training checkpoint {folder} was written by another version of this program. "
                f"Continue with that version, or delete {self.directory} to start this training "
                "from its beginning."
            )
        stored = state["identity"]
        identity = json.loads(json.dumps(identity))  # as it was stored: tuples are lists
        if differing := [key for key in identity if identity[key] != stored.get(key)]:
            raise SpftError(
                f"The training checkpoint {folder} belongs to another training: it differs in "
                f"{', '.join(differing)}. Continue with what it was started with, or delete "
                f"{self.directory} to start this training from its beginning."
            )


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Tells models apart: names, shapes, and the first values of every parameter."""
    names = [f"{name} {tuple(p.shape)} {p.requires_grad}" for name, p in parameters.items()]
    with torch.no_grad():
        values = torch.cat([p.flatten()[:16].to(torch.float64) for p in parameters.values()])
    text = "\n".join(names).encode()
    return hashlib.sha256(text + values.cpu().numpy().tobytes()).hexdigest()[:16]


def fingerprint_items(items: Sequence[Any], size: Any) -> str:
    """Tells data apart by what a set says it holds, or by the number of items and the id and size
    of up to about 1,000 of them."""
    if isinstance(items, TrainingSet):
        # Their first sizes too: what is in the prompts of the same pairs may have changed.
        sizes = [0 if item is None else size(item) for item in items[:SAMPLED_SIZES]]
        return f"{len(items)} items, {items.identity}, {digest(map(str, sizes))}"
    every = max(1, len(items) // 1000)
    some = (items[i] for i in range(0, len(items), every) if items[i] is not None)
    text = "\n".join(f"{getattr(item, 'id', '')} {size(item)}" for item in some)
    return f"{len(items)} items, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if "state.json" not in sums:
            return f"{SUMS} is incomplete"
        for name, digest in sums.items():
            if _digest(folder / name) != digest:
                return f"{name} has changed"
    except (OSError, UnicodeDecodeError) as error:
        return str(error)
    return None


def _random_state(device: torch.device) -> dict[str, Tensor]:
    cpu, cuda = _RANDOM
    state = {cpu: torch.get_rng_state()}
    if device.type == "cuda":
        state[cuda] = torch.cuda.get_rng_state(device)
    return state


# FSDP2 leaves each process its shard of a parameter; a shard is saved by the process that owns it.


def _sharded(parameters: Mapping[str, Tensor]) -> bool:
    return any(hasattr(parameter, "to_local") for parameter in parameters.values())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _stored(tensor: Tensor) -> Tensor:
    return _local(tensor.detach()).cpu().contiguous()


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """An optimizer's value for a parameter, on its device and sharded like it."""
    if value.dim() == 0 and parameter.dim() > 0:  # the count of steps
        return value.to(parameter.device)
    if not hasattr(parameter, "to_local"):
        return value.to(parameter.device)
    whole = torch.zeros_like(parameter, dtype=value.dtype)
    _local(whole).copy_(value)
    return whole
