"""Which items make an optimizer step, and which of them go through the model together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

from spftcore.errors import SpftError

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
    items: Sequence[Item | None],
    tokens: Callable[[Item], int],
    batch_size: int,
    steps: int,
    seed: int,
) -> Iterator[list[Item]]:
    """`steps` batches from successive random permutations of the items.

    Items of like length meet in a batch, so that little is padding: a window of the permutations
    is sorted by length and cut into batches, which come in random order. Only the items of a window
    are held, so that a data set may make its items when they are drawn.

    Args:
        items: those that are None are passed over.
        tokens: of an item.
        batch_size: items of a batch.
        steps: how many batches.
        seed: of the order.

    Raises:
        SpftError: every item is None.
    """
    generator = torch.Generator().manual_seed(seed)
    # Within one epoch: sorted by length, the copies of an item would fill a whole batch.
    size = min(WINDOW, max(1, len(items) // batch_size))
    drawn = _drawn(items, generator)
    for step in range(steps):
        position = step % size
        if position == 0:
            window = _by_length(list(islice(drawn, size * batch_size)), tokens)
            turns = torch.randperm(size, generator=generator).tolist()
        start = turns[position] * batch_size
        yield window[start : start + batch_size]


def _by_length(window: list[tuple[int, Item]], tokens: Callable[[Item], int]) -> list[Item]:
    """The items of a window, sorted unless it spans several epochs (few of many can be used): the
    copies of an item would fill a batch."""
    if max(Counter(index for index, _ in window).values()) > 2:
        return [item for _, item in window]
    return sorted((item for _, item in window), key=tokens)


def _drawn(items: Sequence[Item | None], generator: torch.Generator) -> Iterator[tuple[int, Item]]:
    """The items of successive random permutations with their numbers, without end."""
    while True:
        found = False
        for index in torch.randperm(len(items), generator=generator).tolist():
            item = items[index]
            if item is not None:
                found = True
                yield index, item
        if not found:
            raise SpftError(
                f"There is nothing to train on: all {len(items)} pairs are over the limits. Raise "
                "prompt.max_prompt_tokens or prompt.max_completion_tokens."
            )
