"""What one optimizer step is measured on: a cell's model, its pairs, and their operations.

Needs torch and transformers only, so that a peer's interpreter can import it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from step_cases import SIZES, Cell
from torch import nn

PAD, EOS = 0, 1
Tokens = tuple[int, ...]
LEARNING_RATE = 1e-6
ADAPTER_SEED = 1
BETA = 0.1  # TRL's default; ours calls it lambda


@dataclass(frozen=True)
class Group:
    """Token ids of a prompt, its gold and its answers, completions ending with EOS."""

    prompt: Tokens
    gold: Tokens
    answers: tuple[Tokens, ...]

    @property
    def completions(self) -> list[Tokens]:
        return [self.gold, *self.answers]


def make_group(cell: Cell, index: int) -> Group:
    """The index-th group: random tokens, the same on every machine."""
    generator = torch.Generator().manual_seed(index)

    def tokens(count: int) -> Tokens:
        return tuple(torch.randint(2, cell.vocabulary, (count,), generator=generator).tolist())

    def completion() -> Tokens:
        least, most = cell.completion // 2, cell.completion + cell.completion // 2
        length = int(torch.randint(least, most + 1, (), generator=generator))
        return (*tokens(length - 1), EOS)

    prompt, gold = tokens(cell.prompt), completion()
    return Group(prompt, gold, tuple(completion() for _ in range(cell.rejected)))


def step_groups(cell: Cell) -> list[Group]:
    """The groups of a step."""
    return [make_group(cell, index) for index in range(cell.groups)]


def make_model(cell: Cell) -> Any:
    """A Qwen2 with random weights, the same for every provider; LoRA is added by `add_adapter`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads, kv_heads, intermediate = SIZES[cell.size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=cell.vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation="sdpa",
        dtype=getattr(torch, cell.dtype),
    )
    with torch.device(cell.device):
        model = Qwen2ForCausalLM(config)
    return model.to(getattr(torch, cell.dtype))


def lora_config(cell: Cell) -> Any:
    """The adapter that every provider trains."""
    from peft import LoraConfig

    return LoraConfig(
        r=cell.lora,
        lora_alpha=2 * cell.lora,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def add_adapter(cell: Cell, model: Any) -> Any:
    from peft import get_peft_model

    torch.manual_seed(ADAPTER_SEED)
    return get_peft_model(model, lora_config(cell)) if cell.lora else model


def make_tokenizer(cell: Cell) -> Any:
    """Token i is the word 't<i>', so that a trainer that takes texts arrives at the same ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<eos>": EOS} | {f"t{i}": i for i in range(2, cell.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
    )


def as_text(tokens: Tokens) -> str:
    """What the tokenizer above turns back into these tokens; EOS is left to the trainer."""
    return "".join(f" t{token}" for token in tokens if token != EOS)


def operations(cell: Cell, model: Any) -> dict[str, float]:
    """Floating-point operations that a step cannot do without, by part.

    Every prompt is processed once, and every completion token once. A product of a trained matrix
    costs its forward, the gradient of its input and that of its weight; a frozen one's last is not
    needed. Attention: two products forward and four backward, over the positions a token may see.
    Layer norms, softmax, rotary positions and the optimizer count for nothing, and nor do the
    adapter's thin products.
    """
    products = 2 if cell.lora else 3
    hidden, layers, *_ = SIZES[cell.size]
    head = model.get_output_embeddings().weight
    weights = sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight is not head and "lora_" not in name
    )
    tokens = scored = visible = 0
    for group in step_groups(cell):
        prompt, lengths = len(group.prompt), [len(c) for c in group.completions]
        tokens += prompt + sum(lengths)
        scored += sum(lengths)
        visible += prompt * (prompt + 1) // 2
        visible += sum(length * prompt + length * (length + 1) // 2 for length in lengths)
    return {
        "tokens": tokens,
        "scored_tokens": scored,
        "body": 2.0 * products * weights * tokens + 3 * 4.0 * visible * hidden * layers,
        "head": 2.0 * products * scored * head.numel(),
    }


def pairs_of(groups: list[Group]) -> list[tuple[Tokens, Tokens, Tokens]]:
    """(prompt, gold, answer) of every pair."""
    return [(g.prompt, g.gold, answer) for g in groups for answer in g.answers]


def mixed_precision(cell: Cell) -> torch.autocast:
    """Autocast for a half-precision cell, as `accelerate` has it; the adapter stays in fp32."""
    half = cell.dtype == "bfloat16"
    return torch.autocast(cell.device, torch.bfloat16, enabled=half)


class Unavailable(Exception):
    """A provider cannot run here; the text says why."""


@dataclass(frozen=True)
class Run:
    """What a provider is given.

    Attributes:
        cell: the shape.
        model: the bare model, on its device.
        steps: optimizer steps to take.
        stamp: to be called at the end of every step with its loss, and its gradient norm if known.
    """

    cell: Cell
    model: Any
    steps: int
    stamp: Callable[[dict[str, float]], None]
