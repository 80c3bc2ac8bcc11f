"""The optimizer loop: AdamW with a linear schedule, accumulation by tokens, a guard against NaN."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from spftcore.config import TrainConfig
from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.training.batches import passes, sample_batches
from spftcore.training.objectives import Objective

Item = TypeVar("Item")
Report = Callable[[int, dict[str, float]], None]

TOKENS_PER_PASS = 16_384  # padded tokens of one forward pass; bounds the activations
BAD_STEPS = 5  # so many steps in a row without a finite gradient end the stage


def fit(
    model: LanguageModel,
    items: Sequence[Item],
    objective: Objective[Item],
    settings: TrainConfig,
    *,
    seed: int,
    dropout: bool,
    report: Report,
) -> None:
    """Trains the model in place.

    The loss is averaged over the items of the whole step however they are split into passes.

    Args:
        model: trained in place; only parameters that require a gradient change.
        items: what batches are drawn from.
        objective: the loss.
        settings: steps, batch size, rates.
        seed: of the order of items and of dropout.
        dropout: on for supervised training; off for preferences, whose margins it would blur.
        report: called after every step with the step (from 1) and its statistics.

    Raises:
        SpftError: there is nothing to train on, or the loss stays non-finite.
    """
    if not items:
        raise SpftError("There is nothing to train on: no pair is left after filtering.")
    torch.manual_seed(seed)
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    # Vectors (biases, norms) are not decayed, as usual.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    warmup = max(1, round(settings.warmup * settings.steps))

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (settings.steps - step) / max(1, settings.steps - warmup))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.model.train(dropout)
    bad = 0
    batches = sample_batches(items, objective.tokens, settings.batch_size, settings.steps, seed)
    for step, batch in enumerate(batches, 1):
        start = time.monotonic()
        optimizer.zero_grad(set_to_none=True)
        total = objective.normaliser(batch)
        loss, sums, tokens = 0.0, dict[str, float](), 0
        for group in passes(batch, objective.tokens, TOKENS_PER_PASS):
            summed, statistics = objective.losses(model, group)
            (summed / total).backward()
            loss += float(summed.detach()) / total
            tokens += sum(objective.tokens(item) for item in group)
            for name, value in statistics.items():
                sums[name] = sums.get(name, 0.0) + value
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        if torch.isfinite(norm):
            optimizer.step()
            bad = 0
        else:
            bad += 1
            if bad == BAD_STEPS:
                raise SpftError(
                    f"The gradient was not finite in {BAD_STEPS} steps in a row (at step {step}). "
                    "Lower the learning rate, or train in float32 or bfloat16."
                )
        schedule.step()
        seconds = time.monotonic() - start
        report(step, _readable(loss, sums, tokens / seconds))
    model.model.eval()


def _readable(loss: float, sums: dict[str, float], rate: float) -> dict[str, float]:
    shown: dict[str, Any] = {"loss": loss, "tokens/s": rate}
    if "pairs" in sums:
        shown["margin"] = sums["margin"] / sums["pairs"]
        shown["share wrong"] = sums["wrong"] / sums["pairs"]
        if sums["wrong"]:
            shown["ranking accuracy"] = sums["ranked"] / sums["wrong"]
    return shown
