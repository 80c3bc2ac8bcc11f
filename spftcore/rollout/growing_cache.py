"""A cache whose keys and values are written in place, with room ahead.

`transformers`' dynamic cache copies all it holds for every token; its static cache is attended over
its whole length, filled or not. This one is copied once in `ROOM` tokens and shows what is filled.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens


class GrowingLayer(DynamicLayer):
    """One layer's keys and values [R, key heads, T, D], the front part of larger tensors."""

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[Tensor, Tensor] | None = None
        self._length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends [R, key heads, t, D] and returns all so far."""
        start, end = self._length, self._length + key_states.shape[-2]
        if self._held is None or end > self._held[0].shape[-2]:
            old = self._held
            key, value = _with_room(key_states, end), _with_room(value_states, end)
            if old is not None:
                key[:, :, :start], value[:, :, :start] = (whole[:, :, :start] for whole in old)
            self._held, self.is_initialized = (key, value), True
        key, value = self._held
        key[:, :, start:end], value[:, :, start:end] = key_states, value_states
        self._length = end
        return key[:, :, :end], value[:, :, :end]

    def get_seq_length(self) -> int:
        return self._length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Goes on with these rows; one may come more than once."""
        if self._held is not None:
            key, value = (whole.index_select(0, beam_idx) for whole in self._held)
            self._held = key, value


def _with_room(like: Tensor, end: int) -> Tensor:
    rows, heads, _, width = like.shape
    return like.new_empty(rows, heads, end + ROOM, width)


def growing_cache(config: Any) -> DynamicCache:
    """The cache that fits a model's layers; those that are no full attention keep their own kind.

    Args:
        config: of a `transformers` model.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache
