"""Which items make an optimizer step, and which of them go through the model together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


def passes(
    items: Sequence[Item], tokens: Callable[[Item], int], budget: int
) -> Iterator[list[Item]]:
    """Splits one optimizer step's items into forward passes of at most `budget` tokens.

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
