"""The executor and the engine of a run that uses a cluster (`cluster.*`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from spftcore.cluster.connection import connected, cpus
from spftcore.cluster.rollouts import ClusterEngine
from spftcore.cluster.verification import ClusterExecutor
from spftcore.config import Config
from spftcore.errors import SpftError
from spftcore.rollout.engines import open_engine
from spftcore.rollout.requests import Engine
from spftcore.verify import Limits


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


def open_there(config: Config, folder: str) -> Engine:
    """The engine of `generation.*` with a model in it, on the device that its actor was given."""
    # Ray hides no GPU from an actor that asks for none.
    device = "auto" if config.cluster.engine_gpus else "cpu"
    here = config.model_copy(update={"run": config.run.model_copy(update={"device": device})})
    return open_engine(here, folder)


def open_cluster_engine(config: Config, base: str | Path, processes: int) -> ClusterEngine:
    """The engine of one of a run's processes; they share the engines out.

    Raises:
        SpftError: there are fewer engines than processes, or as of `ClusterEngine`.
    """
    asked = config.cluster
    if asked.engines < processes:
        raise SpftError(
            f"cluster.engines is {asked.engines}, and {processes} processes share them out: each "
            f"needs one. Set cluster.engines to {processes} or more, or to 0."
        )
    return ClusterEngine(
        partial(open_there, config),
        base,
        address=asked.address,
        engines=asked.engines // processes,
        cpus=asked.engine_cpus,
        gpus=asked.engine_gpus,
    )
