"""Training curves where people look at them: TensorBoard, and Weights & Biases by choice."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

from spftcore.config import Config
from spftcore.errors import UsageError

Curves = list[tuple[int, str, float]]

log = logging.getLogger(__name__)


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


def write_curves(folder: Path, curves: Curves) -> None:
    """Writes a stage's curves as TensorBoard events.

    Args:
        folder: of the stage; what a run that was killed left there is removed.
        curves: (step, name, value) of each point.
    """
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as events:
        for step, metric, value in curves:
            events.add_scalar(f"train/{metric}", value, step)


def track(config: Config, directory: Path, stage: str, curves: Curves) -> None:
    """Gives a finished stage's curves to the tracker that `run.tracker` names.

    One run of Weights & Biases per stage, in one group per run; it goes to its server unless
    WANDB_MODE=offline. The stage is stored by then, and a tracker that fails costs a warning only.

    Args:
        config: of the run.
        directory: the run's folder.
        stage: its name.
        curves: (step, name, value) of each point.
    """
    if config.run.tracker != "wandb" or not curves:
        return
    by_step: dict[int, dict[str, float]] = {}
    for step, metric, value in curves:
        by_step.setdefault(step, {})[f"train/{metric}"] = value
    try:
        import wandb

        run = wandb.init(
            project="spftcore",
            group=config.run.name,
            name=stage,
            dir=directory,
            config=config.model_dump(mode="json"),
        )
        for step in sorted(by_step):
            run.log(by_step[step], step=step)
        run.finish()
    except Exception as error:  # no login, no network, whatever a tracker raises
        log.warning("The curves of %s did not reach Weights & Biases: %s", stage, error)
