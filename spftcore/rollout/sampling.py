"""Which token comes next: greedy, or drawn with chance of the row's own."""

from __future__ import annotations

import random

import torch
from torch import Tensor


def row_chance(seed: int, key: int, sample: int) -> random.Random:
    """The chance of one completion: it depends on nothing else that is decoded beside it.

    Args:
        seed, key: of the sampling and of the prompt (`Sampling.key`).
        sample: number among the prompt's completions.
    """
    return random.Random(f"{seed}:{key}:{sample}")


def next_tokens(
    logits: Tensor, temperature: float, uniform: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The next token of each row.

    A drawn token is the one whose share of the summed probabilities holds the row's number, so one
    number a token is enough, and float noise of the logits moves a draw only at a share's border.

    Args:
        logits: [R, V] of the model.
        temperature: 0 for the likeliest token.
        uniform: [R] from [0, 1), fp32; None where the temperature is 0.

    Returns:
        Tokens [R] int64 and their log-probs under the model itself [R] fp32.
    """
    logits = logits.float()
    if uniform is None:
        tokens = logits.argmax(-1)
    else:
        shares = (logits / temperature).softmax(-1).cumsum(-1)
        total = shares[:, -1]
        # Below the total even where the product is rounded up to it.
        wanted = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
        tokens = torch.searchsorted(shares, wanted[:, None], right=True)[:, 0]
        # Where the model has lost itself in NaN, no share holds any number.
        tokens.clamp_(max=logits.shape[-1] - 1)
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return tokens, chosen - logits.logsumexp(-1)
