"""Finds the model that `--model` names, with the settings it was trained with, and loads it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spftcore import adapters, models
from spftcore.config import Config, read_yaml, resolve
from spftcore.databases import Database
from spftcore.encoding import Encoder
from spftcore.errors import UsageError
from spftcore.export import locate
from spftcore.inference.answering import Answerer, Prompting
from spftcore.inference.strategies import Strategy
from spftcore.prompts import PromptRenderer
from spftcore.rollout.engines import open_engine
from spftcore.rollout.hf import active_adapter
from spftcore.rollout.requests import Engine
from spftcore.rollout.served import ServedEngine
from spftcore.rollout.vllm_engine import VllmEngine
from spftcore.verify import Executor, Limits

# Weights, settings, and what a tokenizer is made of: vocabulary, merges, chat template.
_OF_A_MODEL = frozenset((".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken"))
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelSource:
    """A model that is there and not loaded yet.

    Attributes:
        given: what `--model` says.
        path: folder of the checkpoint, or a hub id.
        config: settings it is asked with.
        candidate: what `--candidate` says.
    """

    given: str
    path: Path | str
    config: Config
    candidate: str | None = None

    @classmethod
    def find(
        cls, given: str, candidate: str | None = None, options: Mapping[str, Any] | None = None
    ) -> ModelSource:
        """The model that `--model` and `--candidate` name.

        Args:
            given: a run, the folder of a checkpoint or of an adapter, or a hub id. A checkpoint
                inside a run has the run's settings.
            candidate: of the run.
            options: settings that are changed, nested.

        Raises:
            SpftError: nothing is there, or the run has no such candidate (yet).
            UsageError: an option is wrong.
        """
        folder = Path(given)
        path: Path | str
        own: list[tuple[str, dict[str, Any]]] = []
        if not folder.exists() and _HUB_ID.fullmatch(given) and not folder.parent.is_dir():
            if candidate is not None:
                raise UsageError(f"--candidate needs a run, and there is no folder {given}.")
            path = given
        else:
            path, _ = locate(folder, candidate)
            run = _run_of(path)
            if run is not None:
                own = [(str(run), read_yaml(run / "config.yaml"))]
        config = resolve([*own, ("the command line", dict(options or {}))])
        return cls(given, path, config, candidate)

    @property
    def name(self) -> str:
        """A name for a folder: that of the run, with the candidate, or of the checkpoint."""
        parts = [Path(self.given).name or "model", *([self.candidate] if self.candidate else [])]
        return "-".join(parts)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer. Raises SpftError."""
        return models.load_tokenizer(self.path, self.config)

    def prompting(self, databases: Mapping[str, Database]) -> Prompting:
        """Its prompts of questions to these databases. Raises SpftError."""
        config = self.config
        device = models.pick_device(config) if config.prompt.reranker else None
        return Prompting(
            PromptRenderer(config.prompt, databases, seed=config.run.seed, device=device),
            Encoder(self.tokenizer, chat_template=config.model.chat_template),
            databases,
            config.prompt,
            constrain=config.generation.constrain,
        )

    @cached_property
    def digest(self) -> str:
        """Names the model by what it is and not by where it lies: 64 hexadecimal digits over the
        bytes of its files (of a hub id: its commit), those of an adapter's base included.

        Raises:
            SpftError: there is none.
        """
        found = hashlib.sha256(_digest_of(self.path, self.config).encode())
        if (Path(self.path) / adapters.ADAPTER_FILE).is_file():
            found.update(_digest_of(adapters.base_of(str(self.path)), self.config).encode())
        arithmetic = self.config.model
        found.update(f"{arithmetic.dtype} {arithmetic.quantize}".encode())
        return found.hexdigest()


def _run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in."""
    inside = checkpoint.resolve()
    for folder in (inside.parent, inside.parent.parent):
        if (folder / "run.sqlite").is_file() and (folder / "config.yaml").is_file():
            return folder
    return None


def _digest_of(path: Path | str, config: Config) -> str:
    folder = Path(path)
    if not folder.is_dir():
        commit = getattr(models.architecture(path, config), "_commit_hash", None)
        return f"{path}@{commit}"
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in _OF_A_MODEL)

    def of(file: Path) -> str:
        if file.name == adapters.ADAPTER_FILE:  # it tells where the base lies, too
            settings = json.loads(file.read_bytes())
            settings.pop("base_model_name_or_path", None)
            return f"{file.name} {json.dumps(settings, sort_keys=True)}"
        with file.open("rb") as content:
            return f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}"

    with ThreadPoolExecutor(4) as pool:  # hashing lets other threads run
        return "\n".join(pool.map(of, (f for f in files if f.name != adapters.BASE_FILE)))


class OpenModel:
    """A loaded model, to be asked about any databases; a context manager, since an engine may be
    a process of its own.

    Raises:
        SpftError: the model cannot be loaded, or there is not the device asked for.
    """

    def __init__(self, source: ModelSource) -> None:
        config, path = source.config, str(source.path)
        self.source = source
        self._engine: Engine
        self._adapter: str | None = None
        if config.generation.engine == "hf":
            loaded = models.load(path, config, device=models.pick_device(config))
            self._engine = open_engine(config, loaded)
            self._adapter = active_adapter(loaded)
            return
        is_adapter = (Path(path) / adapters.ADAPTER_FILE).is_file()
        engine = open_engine(config, adapters.base_of(path) if is_adapter else path)
        assert isinstance(engine, (VllmEngine, ServedEngine))
        if is_adapter:
            self._adapter = path
            engine.load_adapter(path, path)
        self._engine = engine

    def close(self) -> None:
        """Ends the engine, where it is a process of its own."""
        if isinstance(self._engine, VllmEngine):
            self._engine.close()

    def __enter__(self) -> OpenModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def answerer(
        self, databases: Mapping[str, Database], strategy: Strategy, *, threads: int = 0
    ) -> Iterator[Answerer]:
        """What asks it about these databases.

        Args:
            threads: of the executor that runs what it writes; 0: one per core.
        """
        bounds = self.source.config.limits
        limits = Limits(steps=bounds.steps, seconds=bounds.seconds)
        with Executor(threads=threads, limits=limits) as executor:
            prompting = self.source.prompting(databases)
            yield Answerer(self._engine, prompting, executor, strategy, adapter=self._adapter)
