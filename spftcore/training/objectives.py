"""What a training step minimises: the NLL of completions, or a preference loss over pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from spftcore.losses import LossConfig, completion_nll, preference_loss
from spftcore.models import LanguageModel
from spftcore.training.batches import TokenSequence, collate, completion_logprobs

Item = TypeVar("Item", contravariant=True)


class Objective(Protocol, Generic[Item]):
    """A loss that is a sum over items, divided by a number known before any forward pass."""

    def tokens(self, item: Item) -> int:
        """Tokens of one item's longest sequence (what padding is counted in)."""

    def normaliser(self, items: Sequence[Item]) -> float:
        """What the sum over a whole step's items is divided by."""

    def losses(
        self, model: LanguageModel, items: Sequence[Item]
    ) -> tuple[Tensor, dict[str, float]]:
        """(sum of the losses, sums of statistics by name) of one forward pass."""


class Supervised:
    """Mean NLL per completion token (supervised fine-tuning)."""

    def tokens(self, item: TokenSequence) -> int:
        return len(item)

    def normaliser(self, items: Sequence[TokenSequence]) -> float:
        return float(sum(len(item.completion) for item in items))

    def losses(
        self, model: LanguageModel, items: Sequence[TokenSequence]
    ) -> tuple[Tensor, dict[str, float]]:
        batch = collate(items, model.tokenizer.pad_token_id, model.device)
        nll = completion_nll(completion_logprobs(model, batch), batch.cu_seqlens)
        return nll.sum(), {}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A gold completion and the opponent's answer to the same prompt.

    Attributes:
        gold, answer: the two sequences (y and y′).
        gold_reference, answer_reference: [tokens of the completion] fp32, log-probs of the
            completion under the opponent (or under the reference model, for DPO).
        reward: R(y′), 1 if the answer is wrong (method, Eq. 2).
    """

    gold: TokenSequence
    answer: TokenSequence
    gold_reference: Tensor
    answer_reference: Tensor
    reward: float


class Preference:
    """A pair loss of `spftcore.losses`, averaged over the pairs it keeps."""

    def __init__(self, config: LossConfig) -> None:
        self._config = config

    def tokens(self, item: PreferencePair) -> int:
        return 2 * max(len(item.gold), len(item.answer))

    def normaliser(self, items: Sequence[PreferencePair]) -> float:
        if self._config.kind in ("exspin", "dpo"):
            return float(max(1, sum(item.reward == 1 for item in items)))
        return float(len(items))

    def losses(
        self, model: LanguageModel, items: Sequence[PreferencePair]
    ) -> tuple[Tensor, dict[str, float]]:
        count = len(items)
        sequences = [item.gold for item in items] + [item.answer for item in items]
        batch = collate(sequences, model.tokenizer.pad_token_id, model.device)
        device = model.device
        references = [item.gold_reference for item in items]
        references += [item.answer_reference for item in items]
        reward = torch.tensor([item.reward for item in items], device=device)
        index = torch.arange(count, device=device)
        loss, _, statistics = preference_loss(
            self._config,
            completion_logprobs(model, batch),
            torch.cat(references).to(device),
            batch.cu_seqlens,
            index,
            index + count,
            reward,
        )
        wrong = reward == 1
        sums = {
            "margin": float(statistics.margin.sum()),
            "pairs": float(count),
            "wrong": float(wrong.sum()),
            # Ranking accuracy counts pairs whose answer is wrong: only these are to be ranked.
            "ranked": float((statistics.ranked_right & wrong).sum()),
        }
        return loss.sum(), sums
