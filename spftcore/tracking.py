"""Training curves where people look at them: TensorBoard, and Weights & Biases by choice."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

from spftcore.config import Config
from spftcore.errors import UsageError

Curves = list[tuple[int, str, float]]


def check_tracker(config: Config) -> None:
    """Fails before anything is done where the tracker that `run.tracker` names is missing.

    Raises:
        UsageError: it is not installed.
    """
    if config.run.tracker == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            "run.tracker=wandb needs the package wandb, which is not installed. Run "
            '`pip install -e ".[wandb]"`, or leave the setting out.'
        )


def write_curves(config: Config, directory: Path, stage: str, curves: Curves) -> None:
    """Writes a finished stage's curves.

    With `run.tracker=wandb` they also become a run of Weights & Biases, one per stage in one group
    per run; it sends them to its server unless WANDB_MODE=offline.

    Args:
        config: of the run.
        directory: the run's folder.
        stage: its name.
        curves: (step, name, value) of each point.
    """
    _tensorboard(directory / "tensorboard" / stage, curves)
    if config.run.tracker == "wandb" and curves:
        _wandb(config, directory, stage, curves)


def _tensorboard(folder: Path, curves: Iterable[tuple[int, str, float]]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed right here
    with SummaryWriter(str(folder)) as events:
        for step, metric, value in curves:
            events.add_scalar(f"train/{metric}", value, step)


def _wandb(config: Config, directory: Path, stage: str, curves: Curves) -> None:
    import wandb

    # The same id for the same stage: one that was killed and repeated replaces what it sent.
    identity = f"{config.run.name}-{stage}"
    run = wandb.init(
        project="spftcore",
        group=config.run.name,
        name=stage,
        id=identity,
        resume="allow",
        dir=directory,
        config=config.model_dump(mode="json"),
    )
    by_step: dict[int, dict[str, float]] = {}
    for step, metric, value in curves:
        by_step.setdefault(step, {})[f"train/{metric}"] = value
    for step in sorted(by_step):
        run.log(by_step[step], step=step)
    run.finish()
