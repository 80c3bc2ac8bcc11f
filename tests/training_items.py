"""Random training items, and what a model makes of them by plain PyTorch in fp64."""

from __future__ import annotations

import copy
from typing import Any

import torch

from spftcore.config import LoopConfig, TrainConfig
from spftcore.models import LanguageModel
from spftcore.training.groups import TokenSequence
from spftcore.training.loop import fit
from spftcore.training.objectives import PreferencePair


def alone(model: LanguageModel, sequence: TokenSequence) -> torch.Tensor:
    """fp64 log-probs of one completion from the model's own logits, without padding."""
    ids = [*sequence.prompt, *sequence.completion]
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0].double()
    scores = logits.log_softmax(-1)
    start = len(sequence.prompt)
    return torch.stack([scores[i - 1, ids[i]] for i in range(start, len(ids))])


def sequences(count: int, seed: int, vocabulary: int = 300) -> list[TokenSequence]:
    """Random sequences of random lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(2, vocabulary, (length,), generator=generator).tolist())

    return [TokenSequence(draw(1, 20), draw(1, 12)) for _ in range(count)]


def preference_pairs(opponent: LanguageModel, count: int, seed: int) -> list[PreferencePair]:
    """Pairs whose references are an opponent's log-probs; rewards 1, 0, 1, 0, …"""
    golds, others = sequences(count, seed), sequences(count, seed + 1)
    pairs = []
    for number, (gold, other) in enumerate(zip(golds, others, strict=True)):
        answer = TokenSequence(gold.prompt, other.completion)
        references = [alone(opponent, item).float() for item in (gold, answer)]
        pairs.append(PreferencePair(gold, answer, *references, float(number % 2 == 0)))
    return pairs


def settings(**changed: Any) -> TrainConfig:
    """One step of 16 items without warm-up, or as changed."""
    values = {"steps": 1, "batch_size": 16, "learning_rate": 1e-3, "warmup": 0.0}
    return TrainConfig.model_validate(values | changed)


def copy_of(model: LanguageModel) -> LanguageModel:
    return LanguageModel(copy.deepcopy(model.model), model.tokenizer, model.parent)


def trained(
    model: LanguageModel,
    items: Any,
    objective: Any,
    seed: int = 3,
    *,
    dropout: bool = False,
    loop: dict[str, Any] | None = None,
    **changed: Any,
) -> tuple[LanguageModel, list[dict[str, float]]]:
    """A trained copy of a model, and what every step reported."""
    copied = copy_of(model)
    reports: list[dict[str, float]] = []
    fit(
        copied,
        items,
        objective,
        settings(**changed),
        seed=seed,
        dropout=dropout,
        report=lambda step, statistics: reports.append({"step": step, **statistics}),
        loop=LoopConfig.model_validate(loop or {}),
    )
    return copied, reports


def gradients_of_one_step(
    model: LanguageModel, items: Any, objective: Any, **loop: Any
) -> list[torch.Tensor]:
    """The clipped gradients that the optimizer sees, with a clip too large to act."""
    copied, _ = trained(model, items, objective, clip=1e9, loop=loop)
    return [p.grad for p in copied.model.parameters() if p.requires_grad]
