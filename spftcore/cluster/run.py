"""The executor and the engine of a run that uses a cluster (`cluster.*`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from spftcore.cluster.connection import connected, cpus
from spftcore.cluster.rollouts import ClusterEngine
from spftcore.cluster.verification import ClusterExecutor
from spftcore.config import Config
from spftcore.models import LanguageModel
from spftcore.rollout.hf import HfEngine
from spftcore.verify import Limits

ADAPTER = "candidate"


def open_executor(config: Config, limits: Limits, processes: int) -> ClusterExecutor:
    """The executor of one of a run's processes; they share the workers out.

    Raises:
        SpftError: as of `ClusterExecutor`.
    """
    asked = config.cluster
    ray = connected(asked.address)
    workers = asked.workers
    if not workers:
        kept = asked.engines * asked.engine_cpus
        workers = (sum(cpus(ray)) - kept) // asked.worker_cpus
    return ClusterExecutor(
        asked.address, max(1, workers // processes), asked.worker_cpus, limits=limits
    )


def open_hf(config: Config, folder: str) -> HfEngine:
    """An engine with a model in it, on the device that its worker was given."""
    import torch

    from spftcore import models

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.load(folder, config, device=device)
    return HfEngine(model, batch_size=config.generation.batch_size)


def open_engine(config: Config, base: str | Path, processes: int) -> ClusterEngine:
    """The engine of one of a run's processes; they share the engines out.

    Raises:
        SpftError: as of `ClusterEngine`.
    """
    asked = config.cluster
    return ClusterEngine(
        partial(open_hf, config),
        base,
        address=asked.address,
        engines=max(1, asked.engines // processes),
        cpus=asked.engine_cpus,
        gpus=asked.engine_gpus,
    )


def give(engine: ClusterEngine, model: LanguageModel, folder: Path) -> str | None:
    """Lets an engine answer as a model does that was written to a folder; the adapter to ask."""
    if not model.parent:
        engine.load_weights(folder)
        return None
    engine.load_adapter(ADAPTER, folder)
    return ADAPTER
