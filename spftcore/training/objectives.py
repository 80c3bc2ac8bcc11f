"""What a training step minimises: the NLL of completions, or a preference loss over pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.losses import LossConfig, completion_nll, preference_loss
from spftcore.models import LanguageModel
from spftcore.training.attention import Attention, completion_logprobs
from spftcore.training.groups import Group, TokenSequence
from spftcore.training.self_check import choose

Item = TypeVar("Item", contravariant=True)


class Objective(Protocol, Generic[Item]):
    """A loss that is a sum over items, divided by a number known before any forward pass.

    Attributes:
        shared: whether an item's completions share its prompt.
        attention: how items are laid out for the model. Where none was set, the first model that
            is scored gets one that needs nothing switched (`Attention.on`).
    """

    shared: bool
    attention: Attention | None

    def tokens(self, item: Item) -> int:
        """Tokens of one item as it stands in a row, its prompt counted once."""

    def normaliser(self, items: Sequence[Item]) -> float:
        """What the sum over a whole step's items is divided by."""

    def losses(
        self, model: LanguageModel, items: Sequence[Item]
    ) -> tuple[Tensor, dict[str, float]]:
        """(sum of the losses, sums of statistics by name) of one forward pass."""


class Supervised:
    """Mean NLL per completion token (supervised fine-tuning)."""

    shared = False
    attention: Attention | None = None

    def tokens(self, item: TokenSequence) -> int:
        return len(item)

    def normaliser(self, items: Sequence[TokenSequence]) -> float:
        return float(sum(len(item.completion) for item in items))

    def losses(
        self, model: LanguageModel, items: Sequence[TokenSequence]
    ) -> tuple[Tensor, dict[str, float]]:
        self.attention = self.attention or choose(model, "sdpa", shared=False)
        batch = self.attention.pack(model, [Group(s.prompt, (s.completion,)) for s in items])
        logprobs = completion_logprobs(model, batch, self.attention)
        nll = completion_nll(logprobs, batch.cu_seqlens)
        return nll.sum(), {}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A gold completion and the opponent's answer to the same prompt.

    Attributes:
        gold, answer: the two sequences (y and y′).
        gold_reference, answer_reference: [tokens of the completion] fp32, log-probs of the
            completion under the opponent (or under the reference model, for DPO).
        reward: R(y′), 1 if the answer is wrong (method, Eq. 2).
        id: of the pair, for messages.
    """

    gold: TokenSequence
    answer: TokenSequence
    gold_reference: Tensor
    answer_reference: Tensor
    reward: float
    id: str = ""

    @property
    def group(self) -> Group:
        """The prompt that both share, with gold and answer.

        Raises:
            SpftError: they do not answer the same prompt.
        """
        if self.gold.prompt != self.answer.prompt:
            raise SpftError("Gold and answer of a pair have different prompts.")
        return Group(self.gold.prompt, (self.gold.completion, self.answer.completion))

    @property
    def references(self) -> tuple[Tensor, ...]:
        return self.gold_reference, self.answer_reference

    @property
    def rewards(self) -> tuple[float, ...]:
        return (self.reward,)


@dataclass(frozen=True, slots=True)
class PreferenceGroup:
    """A gold and several answers to the same prompt; each answer makes a pair with the gold.

    Attributes:
        group: the prompt; its first completion is the gold, the others are the answers.
        references: [tokens of the completion] fp32 of each completion, as in `PreferencePair`.
        rewards: R of each answer.
        id: of the pair, for messages.
    """

    group: Group
    references: tuple[Tensor, ...]
    rewards: tuple[float, ...]
    id: str = ""

    def __post_init__(self) -> None:
        count = len(self.group.completions)
        if (len(self.references), len(self.rewards)) != (count, count - 1):
            raise SpftError(
                f"A group of a gold and {count - 1} answers needs {count} references and "
                f"{count - 1} rewards, not {len(self.references)} and {len(self.rewards)}."
            )


class Preference:
    """A pair loss of `spftcore.losses`, averaged over the pairs it keeps.

    Items are pairs, or golds with several answers; every answer counts as a pair.
    """

    shared = True
    attention: Attention | None = None

    def __init__(self, config: LossConfig) -> None:
        self._config = config

    def tokens(self, item: PreferencePair | PreferenceGroup) -> int:
        return len(item.group)

    def normaliser(self, items: Sequence[PreferencePair | PreferenceGroup]) -> float:
        rewards = [reward for item in items for reward in item.rewards]
        if self._config.kind in ("exspin", "dpo"):
            return float(max(1, sum(reward == 1 for reward in rewards)))
        return float(len(rewards))

    def losses(
        self, model: LanguageModel, items: Sequence[PreferencePair | PreferenceGroup]
    ) -> tuple[Tensor, dict[str, float]]:
        self.attention = self.attention or choose(model, "sdpa")
        device = model.device
        batch = self.attention.pack(model, [item.group for item in items])
        references = [reference for item in items for reference in item.references]
        rewards = [reward for item in items for reward in item.rewards]
        golds: list[int] = []
        answers: list[int] = []
        gold = 0
        for item in items:
            count = len(item.rewards)
            golds += [gold] * count
            answers += range(gold + 1, gold + 1 + count)
            gold += 1 + count
        reward = torch.tensor(rewards, device=device)
        loss, _, statistics = preference_loss(
            self._config,
            completion_logprobs(model, batch, self.attention),
            torch.cat(references).to(device),
            batch.cu_seqlens,
            torch.tensor(golds, device=device),
            torch.tensor(answers, device=device),
            reward,
        )
        wrong = reward == 1
        sums = {
            "margin": float(statistics.margin.sum()),
            "pairs": float(len(rewards)),
            "wrong": float(wrong.sum()),
            # Ranking accuracy counts pairs whose answer is wrong: only these are to be ranked.
            "ranked": float((statistics.ranked_right & wrong).sum()),
        }
        return loss.sum(), sums
