"""Which engine a run generates with: opened when first asked for, kept while models change."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from spftcore import models
from spftcore.config import Config
from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.rollout.hf import HfEngine, active_adapter
from spftcore.rollout.requests import Engine
from spftcore.rollout.served import ServedEngine
from spftcore.rollout.vllm_engine import VllmEngine, VllmOptions

if TYPE_CHECKING:
    from spftcore.cluster.rollouts import ClusterEngine

logger = logging.getLogger(__name__)


def _warn(text: str) -> None:
    logger.warning("%s", text)


def open_engine(
    config: Config,
    model: LanguageModel | str | Path,
    *,
    gpu: int | None = None,
    log: Path | None = None,
    say: Callable[[str], None] = _warn,
) -> Engine:
    """The engine of `generation.*` with a model in it.

    Args:
        config: `generation`, `model`, `prompt` and `lora` settings.
        model: a full model in memory (`hf`), or the folder or hub id of one (`vllm`); with `served`
            the server has the model already.
        gpu: that vLLM runs on, by its number among those this process sees; None: the first.
        log: file for what vLLM prints.
        say: told of what the user should know.

    Raises:
        SpftError: the engine is missing, or cannot open the model.
    """
    generation = config.generation
    if generation.engine == "served":
        assert generation.url is not None, "checked by the settings"
        return ServedEngine(
            generation.url, model=generation.served_model, key_variable=generation.api_key, say=say
        )
    if generation.engine == "vllm":
        if isinstance(model, LanguageModel):
            raise SpftError("vLLM reads its model from a folder: save the model first.")
        options = VllmOptions(
            dtype=config.model.dtype,
            lora_rank=config.lora.rank,
            gpu_memory=generation.gpu_memory,
            gpu=gpu,
            sleep=True,
            trust_remote_code=config.model.trust_remote_code,
        )
        return VllmEngine(model, python=generation.vllm_python, options=options, log=log, say=say)
    if not isinstance(model, LanguageModel):
        model = models.load(model, config, device=models.pick_device(config))
    return HfEngine(model, batch_size=generation.batch_size)


class Engines:
    """The engine of a worker process of a run, kept from stage to stage: starting vLLM takes longer
    than many a stage, and changing its weights does not."""

    def __init__(self) -> None:
        self._engine: VllmEngine | ServedEngine | ClusterEngine | None = None
        self._base = ""
        self._adapters: set[str] = set()
        self._asleep = False
        self._told: Counter[str] = Counter()

    def of(
        self, model: LanguageModel, config: Config, directory: Path, *, processes: int = 1
    ) -> tuple[Engine, str | None]:
        """An engine that answers as a model does, and the name of the adapter to ask.

        Args:
            model: full or with an adapter. `vllm`, `served` and engines on a cluster read it from
                `model.folder`.
            config: of the run.
            directory: the run's folder, for vLLM's log.
            processes: of the run, which share the cluster's engines out.

        Raises:
            SpftError: the engine is missing or cannot take the model, or that lies nowhere.
        """
        on_cluster = config.cluster.address != "none" and config.cluster.engines > 0
        if config.generation.engine == "hf" and not on_cluster:
            return HfEngine(model, batch_size=config.generation.batch_size), active_adapter(model)
        folder = model.folder
        if not folder:
            raise SpftError(
                "vLLM, servers and engines on a cluster read a model from its folder, and this one "
                "was changed since it was saved: save it first (`RunContext.save`)."
            )
        base = model.parent or folder
        if self._engine is None:
            if on_cluster:
                from spftcore.cluster.run import open_cluster_engine  # Ray is an extra

                self._engine = open_cluster_engine(config, base, processes)
            else:
                # Each of a run's processes has a GPU of its own, and vLLM shares it.
                gpu = model.device.index if model.device.type == "cuda" else None
                opened = open_engine(config, base, gpu=gpu, log=directory / "vllm.log")
                assert isinstance(opened, (VllmEngine, ServedEngine))
                self._engine = opened
                if isinstance(opened, ServedEngine) and _within(base, directory):
                    opened.load_weights(base)  # trained by the run: the server has another one
            self._base = base
        elif isinstance(self._engine, VllmEngine) and self._asleep:
            self._engine.wake()
        self._asleep = False
        if base != self._base:
            self._engine.load_weights(base)
            self._base = base
        if not model.parent:
            return self._engine, None
        if folder not in self._adapters:
            self._adapters.add(folder)
            self._engine.load_adapter(folder, folder)
        return self._engine, folder

    def lost(self) -> Counter[str]:
        """Engines on a cluster that were lost since this was asked last, and prompts given up."""
        found: Counter[str] = Counter()
        if self._engine is not None and not isinstance(self._engine, (VllmEngine, ServedEngine)):
            now = Counter(
                {
                    "engine lost": self._engine.lost,
                    "prompt whose engines were lost each time": self._engine.failures,
                }
            )
            found, self._told = now - self._told, now
        return found

    def rest(self) -> None:
        """Hands the GPU's memory back until the engine is asked again."""
        if isinstance(self._engine, VllmEngine) and not self._asleep:
            self._engine.sleep()
            self._asleep = True

    def close(self) -> None:
        """Ends the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _within(path: str, directory: Path) -> bool:
    return Path(path).resolve().is_relative_to(directory.resolve())
