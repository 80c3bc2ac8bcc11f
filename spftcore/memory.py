"""What a training step and a batch of generation will hold in memory, known before they run.

The model is built without memory (`FakeTensorMode`: shapes, dtypes and devices, no data) and given
the very batch that training would give it; what autograd keeps for the backward pass is counted,
tensor by tensor. So the count knows the architecture, the adapters, the mask and the precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from spftcore import adapters
from spftcore.config import Config, LoopConfig
from spftcore.errors import SpftError
from spftcore.kernels.head import CPU_CHUNK_BYTES, GPU_CHUNK_BYTES
from spftcore.models import LanguageModel
from spftcore.training.attention import Attention, Backend, row_cost
from spftcore.training.batches import passes
from spftcore.training.groups import Group

GIB = 1024**3
# Of free memory, what a process may plan with: the allocator's fragments and the libraries' own
# buffers take some.
USABLE = 0.9
# While a layer's gradients are formed, about this share of what it saved is alive beside it
# (measured on tiny Qwen2 and Llama models, docs/models.md).
BACKWARD_SHARE = 0.25
# nf4: 4 bits, and 8 bits of scale per 64 weights, with one fp32 per 256 scales (double
# quantization); int8: 8 bits, and an fp32 scale per row.
BYTES_PER_QUANTIZED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes at the moment when most is held.

    Attributes:
        weights: parameters and buffers, adapters included.
        gradients: of what is trained.
        optimizer: AdamW's two moments of each trained parameter.
        activations: what the forward pass keeps for the backward pass, and the gradients of one
            layer of it.
        loss: hidden states, their gradients, and the chunk of logits of the completion tokens.
        cache: keys and values of the prompts and completions of one batch of generation, and what
            reading the prompts takes.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    loss: int = 0
    cache: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        parts = [
            f"{field.name} {size(getattr(self, field.name))}"
            for field in fields(self)
            if getattr(self, field.name)
        ]
        return f"{size(self.total)} ({', '.join(parts)})"


# -- the model without memory --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A model's shapes and dtypes.

    Attributes:
        mode: under which its tensors live.
        model: its modules; the tokenizer is the real one.
        quantized: bytes that a quantized base saves.
    """

    mode: FakeTensorMode
    model: LanguageModel
    quantized: int


def blueprint(architecture: Any, tokenizer: Any, config: Config, *, adapted: bool) -> Blueprint:
    """The model that `config` would train, without its weights.

    Args:
        architecture: `transformers` configuration.
        tokenizer: its tokenizer.
        config: `model` and `lora` settings.
        adapted: whether adapters are put on (if `lora.rank` > 0).
    """
    from transformers import AutoModelForCausalLM

    saved = 0
    parent = ""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            architecture,
            dtype=getattr(torch, config.model.dtype),
            trust_remote_code=config.model.trust_remote_code,
        )
        if adapted and config.lora.rank > 0:
            from peft import get_peft_model

            kind = config.model.quantize
            if kind != "none":
                saved = _saved_by(kind, model)
            targets = config.lora.target_modules
            model = get_peft_model(model, adapters.lora(model, config, targets))
            parent = "blueprint"
    mode = FakeTensorMode()
    with mode:
        _as_on_cpu(model)
    return Blueprint(mode, LanguageModel(model, tokenizer, parent=parent), saved)


def _as_on_cpu(model: torch.nn.Module) -> None:
    """Replaces tensors of the meta device by fake ones of the CPU: on the meta device, attention
    would take another path, which keeps all scores."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:  # a tied head stays tied
                    fake: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, torch.nn.Parameter):
                        fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    made[id(tensor)] = fake
                held[name] = made[id(tensor)]  # type: ignore[assignment]


def _saved_by(kind: str, model: Any) -> int:
    head = model.get_output_embeddings()
    bytes_saved = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            weight = module.weight
            bytes_saved += weight.numel() * (weight.element_size() - BYTES_PER_QUANTIZED[kind])
    return int(bytes_saved)


# -- training ------------------------------------------------------------------------------------


def training_need(plan: Blueprint, groups: Sequence[Group], loop: LoopConfig) -> Need:
    """Bytes at the peak of a training step.

    Args:
        plan: the model.
        groups: what goes through the model in one pass.
        loop: precision and gradient checkpointing.
    """
    parameters = list(plan.model.model.parameters())
    trained = _bytes(p for p in parameters if p.requires_grad)
    weights = _bytes((*parameters, *plan.model.model.buffers())) - plan.quantized
    kept, hidden_bytes, tokens = _kept_for_backward(plan, groups, loop)
    layers = max(1, plan.model.causal_lm.config.get_text_config().num_hidden_layers)
    one_layer = kept // layers
    if loop.gradient_checkpointing:
        kept = layers * hidden_bytes + one_layer
    return Need(
        weights=weights,
        gradients=trained,
        optimizer=2 * trained,
        activations=kept + int(BACKWARD_SHARE * one_layer),
        loss=_loss_bytes(plan.model, groups, tokens),
    )


def _kept_for_backward(
    plan: Blueprint, groups: Sequence[Group], loop: LoopConfig
) -> tuple[int, int, int]:
    """(bytes that autograd keeps in a forward pass, bytes of one layer's hidden states, tokens)."""
    model = plan.model
    model.model.train()
    parameters = {_storage(p) for p in model.model.parameters()}
    parameters |= {_storage(b) for b in model.model.buffers()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in parameters:
            kept[key] = tensor.untyped_storage()  # held, or its number would be given anew
        return tensor

    casting = (
        torch.autocast("cpu", torch.bfloat16) if loop.precision == "bfloat16" else nullcontext()
    )
    # The other back ends run on a GPU alone, and keep no mask: sdpa bounds them.
    backend: Backend = "plain" if loop.attention == "plain" else "sdpa"
    attention = Attention(backend, row_cost(model))
    with plan.mode, casting:
        batch = attention.pack(model, groups)
        inputs = attention.inputs(model, batch)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.hidden_states(batch.input_ids, **inputs)
        masks = inputs.get("attention_mask")
        for mask in masks.values() if isinstance(masks, dict) else [masks]:
            if mask is not None:
                kept[_storage(mask)] = mask.untyped_storage()
    size_of_kept = sum(storage.nbytes() for storage in kept.values())
    return size_of_kept, hidden.numel() * hidden.element_size(), batch.input_ids.numel()


def _loss_bytes(model: LanguageModel, groups: Sequence[Group], tokens: int) -> int:
    """The output hidden states' gradient [tokens, H], completion rows in and out, logits."""
    weight = model.head.weight
    rows = sum(len(completion) for group in groups for completion in group.completions)
    width, element = weight.shape[1], weight.element_size()
    limit = GPU_CHUNK_BYTES if torch.cuda.is_available() else CPU_CHUNK_BYTES
    chunk = min(rows * weight.shape[0] * max(4, element), limit)
    return tokens * width * element + 3 * rows * width * max(4, element) + chunk


# -- generation ----------------------------------------------------------------------------------


def generation_need(plan: Blueprint, prompt: int, config: Config) -> Need:
    """Bytes while one batch of answers is written.

    Args:
        plan: the model.
        prompt: tokens of the longest prompt.
        config: `generation.batch_size`, `prompt.max_completion_tokens`.
    """
    architecture = plan.model.causal_lm.config.get_text_config()
    width, heads = architecture.hidden_size, architecture.num_attention_heads
    key_heads = getattr(architecture, "num_key_value_heads", None) or heads
    head = getattr(architecture, "head_dim", None) or width // heads
    inner = getattr(architecture, "intermediate_size", None) or 4 * width
    element = plan.model.head.weight.element_size()
    batch = config.generation.batch_size
    longest = prompt + config.prompt.max_completion_tokens
    cache = 2 * architecture.num_hidden_layers * key_heads * head * element * batch * longest
    # One layer at a time reads the prompts: its input and output, and the three inner products.
    reading = batch * prompt * (4 * width + 3 * inner) * element
    logits = 2 * batch * architecture.vocab_size * 4
    parameters = (*plan.model.model.parameters(), *plan.model.model.buffers())
    return Need(weights=_bytes(parameters) - plan.quantized, cache=cache + reading + logits)


# -- does it fit -----------------------------------------------------------------------------------


def largest_pass(groups: Sequence[Group], batch: int, budget: int) -> list[Group]:
    """The groups of the largest forward pass that a step may meet: of a batch of the longest.

    Args:
        groups: what is trained on.
        batch: groups of a step.
        budget: `training.tokens_per_pass`.
    """
    longest = sorted(groups, key=len, reverse=True)
    longest = list(islice(cycle(longest), batch))
    return max(passes(longest, len, budget), key=lambda part: sum(map(len, part)))


def check(
    architecture: Any,
    tokenizer: Any,
    config: Config,
    groups: Sequence[Group],
    free: int,
    place: str,
    shards: int = 1,
) -> list[str]:
    """What the largest training step and a batch of generation need, in words.

    Args:
        architecture: `transformers` configuration of the model.
        tokenizer: its tokenizer.
        config: settings of the run.
        groups: prompts with gold and answer, as in self-play.
        free: bytes that are free for one worker.
        place: where, for the message.
        shards: processes that share the weights out among them in training (FSDP2).

    Raises:
        SpftError: one of them does not fit; the message names settings with which it would.
    """

    plans: dict[Any, Blueprint] = {}

    def built(settings: Config) -> Blueprint:
        key = settings.model, settings.lora
        if key not in plans:
            plans[key] = blueprint(architecture, tokenizer, settings, adapted=True)
        return plans[key]

    def training(settings: Config) -> Need:
        plan = built(settings)
        part = largest_pass(
            groups, settings.self_play.batch_size, settings.training.tokens_per_pass
        )
        need = training_need(plan, part, settings.training)
        return replace(
            need,
            weights=need.weights // shards,
            gradients=need.gradients // shards,
            optimizer=need.optimizer // shards,
        )

    def generation(settings: Config) -> Need:
        longest = max(len(group.prompt) for group in groups)
        return generation_need(built(settings), longest, settings)

    lines = []
    for name, need_of, lighter in (
        ("A training step", training, _lighter_training(config, max(map(len, groups)))),
        ("Generation", generation, _lighter_generation(config)),
    ):
        need = need_of(config)
        if need.total > USABLE * free:
            raise SpftError(
                f"{name} needs about {need}, and {size(free)} are free {place} (of which "
                f"{USABLE:.0%} can be planned with). "
                + _proposal(config, need_of, lighter, int(USABLE * free))
            )
        lines.append(f"{name} needs about {need}; {size(free)} are free {place}.")
    return lines


Change = tuple[str, str, Any]  # section, setting, value


def _lighter_training(config: Config, longest: int) -> list[Change]:
    """Settings that make a step need less, in the order of what they cost its quality or time."""
    changes: list[Change] = []
    fewer = max(longest, config.training.tokens_per_pass // 8)
    if fewer < config.training.tokens_per_pass:
        changes.append(("training", "tokens_per_pass", fewer))
    if not config.training.gradient_checkpointing:
        changes.append(("training", "gradient_checkpointing", True))
    if config.lora.rank == 0 and config.model.name_or_path is not None:
        changes.append(("lora", "rank", 16))
    if config.model.dtype == "float32":
        changes.append(("model", "dtype", "bfloat16"))
    return changes


def _lighter_generation(config: Config) -> list[Change]:
    changes: list[Change] = []
    if config.generation.batch_size > 1:
        fewer = max(1, config.generation.batch_size // 8)
        changes.append(("generation", "batch_size", fewer))
    if config.model.dtype == "float32":
        changes.append(("model", "dtype", "bfloat16"))
    return changes


def _proposal(
    config: Config, need_of: Callable[[Config], Need], changes: Sequence[Change], free: int
) -> str:
    """The settings with which it fits: one alone where that is enough, else several together."""
    alone = []
    for change in changes:
        need = need_of(_changed(config, change)).total
        if need <= free:
            alone.append(f"{_text(change)} ({size(need)})")
    if alone:
        return f"It fits with {' or with '.join(alone)}."
    together = config
    for count, change in enumerate(changes, 1):
        together = _changed(together, change)
        need = need_of(together).total
        if need <= free:
            return f"It fits with {', '.join(map(_text, changes[:count]))} ({size(need)})."
    least = f" {', '.join(map(_text, changes))} would still need {size(need)}." if changes else ""
    return f"Use a smaller model or a larger machine.{least}"


def _changed(config: Config, change: Change) -> Config:
    section, setting, value = change
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update={setting: value})}
    )


def _text(change: Change) -> str:
    section, setting, value = change
    return f"{section}.{setting}={str(value).lower() if isinstance(value, bool) else value}"


# -- what is there -------------------------------------------------------------------------------


def available(device: torch.device) -> int:
    """Bytes that are free on a device: on a GPU by its driver, else the least that the machine and
    the control groups of this process leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_free_of_machine(Path("/proc/meminfo")), *_free_of_groups(Path("/sys/fs/cgroup"))]
    known = [bytes_free for bytes_free in free if bytes_free is not None]
    return min(known) if known else torch.iinfo(torch.int64).max


def _free_of_machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _free_of_groups(root: Path) -> Iterator[int | None]:
    """Version 2 (`memory.max`) and version 1 of the kernel's memory limits."""
    for folder, limit, used, cached in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (
            root / "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            most = (folder / limit).read_text(encoding="ascii").strip()
            if most == "max":
                continue
            held = int((folder / used).read_text(encoding="ascii"))
            # Files in the page cache count as used, and are given up when memory is wanted.
            for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == cached:
                    held -= int(value)
            yield max(0, int(most) - held)
        except (OSError, ValueError):
            continue


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GiB", GIB), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _bytes(tensors: Any) -> int:
    storages = {_storage(t): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
