"""Sequences of prompt and completion, and their batches: only completion tokens are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs
from spftcore.models import LanguageModel

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids of a prompt and of its completion; the completion ends with end-of-sequence."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Batch:
    """S sequences padded on the right to T tokens, and the N completion tokens among them.

    Attributes:
        input_ids: [S, T] int64.
        attention_mask: [S, T] int64.
        positions: [N] int64, where in the flattened [S · T] the token before each completion token
            stands (its hidden state predicts the completion token).
        targets: [N] int64, the completion tokens.
        cu_seqlens: [S + 1] int64, borders of the completions in targets.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    targets: Tensor
    cu_seqlens: Tensor


def collate(sequences: Sequence[TokenSequence], pad_id: int, device: torch.device) -> Batch:
    """Builds a batch on `device`."""
    if any(not s.prompt for s in sequences):
        raise SpftError("A sequence has an empty prompt: nothing predicts its first token.")
    longest = max(len(s) for s in sequences)
    ids: list[list[int]] = []
    masks: list[list[int]] = []
    positions: list[int] = []
    targets: list[int] = []
    borders = [0]
    for row, s in enumerate(sequences):
        padding = longest - len(s)
        ids.append([*s.prompt, *s.completion, *([pad_id] * padding)])
        masks.append([1] * len(s) + [0] * padding)
        first = row * longest + len(s.prompt) - 1
        positions.extend(range(first, first + len(s.completion)))
        targets.extend(s.completion)
        borders.append(len(targets))
    return Batch(
        *(torch.tensor(x, device=device) for x in (ids, masks, positions, targets, borders))
    )


def completion_logprobs(model: LanguageModel, batch: Batch) -> Tensor:
    """Log-probability of every completion token under the model, [N] fp32.

    The hidden states of completion tokens are picked before the projection, and the projection is
    chunked: logits [N, V] are never held whole.
    """
    hidden = model.hidden_states(batch.input_ids, batch.attention_mask)
    head = model.head
    return linear_logprobs(
        hidden.flatten(0, 1)[batch.positions],
        head.weight,
        batch.targets,
        head.bias,
        scale=head.scale,
        softcap=head.softcap,
    )


def passes(
    items: Sequence[Item], tokens: Callable[[Item], int], budget: int
) -> Iterator[list[Item]]:
    """Splits one optimizer step's items into forward passes of at most `budget` padded tokens.

    Items of like length go together; an item longer than the budget makes a pass of its own.
    """
    group: list[Item] = []
    longest = 0
    for item in sorted(items, key=tokens):
        longest = max(longest, tokens(item))
        if group and longest * (len(group) + 1) > budget:
            yield group
            group, longest = [], tokens(item)
        group.append(item)
    if group:
        yield group


WINDOW = 16  # batches that are drawn together and cut by length


def sample_batches(
    items: Sequence[Item], tokens: Callable[[Item], int], batch_size: int, steps: int, seed: int
) -> Iterator[list[Item]]:
    """`steps` batches from successive random permutations of the items.

    Items of like length meet in a batch, so that little is padding: a window of the permutations
    is sorted by length and cut into batches, which come in random order.
    """
    generator = torch.Generator().manual_seed(seed)
    # Within one epoch: sorted by length, the copies of an item would fill a whole batch.
    size = min(WINDOW, max(1, len(items) // batch_size))
    order: list[int] = []
    for step in range(steps):
        position = step % size
        if position == 0:
            while len(order) < size * batch_size:
                order += torch.randperm(len(items), generator=generator).tolist()
            window = sorted(order[: size * batch_size], key=lambda i: tokens(items[i]))
            del order[: size * batch_size]
            turns = torch.randperm(size, generator=generator).tolist()
        start = turns[position] * batch_size
        yield [items[i] for i in window[start : start + batch_size]]
