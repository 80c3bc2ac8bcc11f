"""Generation with `transformers`: batched greedy or sampled decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig

from spftcore.models import LanguageModel


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> list[tuple[int, ...]]:
    """Completions of prompts.

    Args:
        model: a causal language model.
        prompts: token ids.
        max_new_tokens: longest completion; one that reaches it has no end-of-sequence token.
        batch_size: prompts decoded together, those of like length.
        temperature: 0 for greedy decoding.
        seed: of the sampling.
        report: called with the number of prompts done.

    Returns:
        Token ids of each completion, end-of-sequence included where it was reached, in the order
        of the prompts.
    """
    tokenizer, device = model.tokenizer, model.device
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: list[tuple[int, ...]] = [()] * len(prompts)
    model.model.eval()
    torch.manual_seed(seed)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {}
    )
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = max(len(prompts[i]) for i in chosen)
        ids, mask = [], []
        for i in chosen:
            padding = longest - len(prompts[i])
            ids.append([tokenizer.pad_token_id] * padding + list(prompts[i]))
            mask.append([0] * padding + [1] * len(prompts[i]))
        with torch.inference_mode(), _plain_decoding(model):
            output = model.model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **({"do_sample": False} | sampling),
            )
        for i, row in zip(chosen, output[:, longest:].tolist(), strict=True):
            end = tokenizer.eos_token_id
            completions[i] = tuple(row[: row.index(end) + 1] if end in row else row)
        report(min(start + batch_size, len(order)))
    return completions


@contextmanager
def _plain_decoding(model: LanguageModel) -> Iterator[None]:
    """A checkpoint's own settings (repetition penalty, top-k, beams) would bend what is decoded."""
    causal_lm = model.causal_lm
    own, causal_lm.generation_config = causal_lm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        causal_lm.generation_config = own
