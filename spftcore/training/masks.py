"""What each token of a packed row may see, for every kind of layer a model has.

A token sees its own prompt and its own completion, up to itself. A layer with a sliding window of
w tokens sees those of them whose *position* is less than w behind; by distance in the row, a second
completion would look too far ahead of its prompt, and no model rejects such a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spftcore.training.packing import PackedBatch

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back a layer sees within a sequence.

    Attributes:
        window: tokens of a sliding window, the token itself included; None: no limit.
        chunk: tokens of a chunk, which sees nothing before it begins; None: no chunks.
    """

    window: int | None = None
    chunk: int | None = None

    def covers(self, length: int) -> bool:
        """Whether every token of a sequence of this length sees all before it."""
        limits = [limit for limit in (self.window, self.chunk) if limit is not None]
        return all(length <= limit for limit in limits)


def reaches(config: Any) -> dict[str, Reach] | Reach | None:
    """How far the layers of a model see, in the form its `attention_mask` takes.

    The rule is the one by which `transformers` builds masks itself: by `layer_types` where a
    configuration has them, else by `sliding_window`, else by `attention_chunk_size`.

    Args:
        config: of a `transformers` model.

    Returns:
        One reach for all layers, or by layer type where they differ; None for a model with layers
        that are no attention (a recurrent state cannot branch).
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    if getattr(config, "layer_types", None) is None:
        return Reach(window=window) if window is not None else Reach(chunk=chunk)
    known = {
        "full_attention": Reach(),
        "sliding_attention": Reach(window=window),
        "chunked_attention": Reach(chunk=chunk),
    }
    types = set(config.layer_types)
    if not types <= known.keys():
        return None
    if len(types) == 1:
        return known[types.pop()]
    return {name: known[name] for name in sorted(types)}


def layer_reaches(config: Any) -> list[Reach]:
    """How far each layer sees, for a model whose `reaches` are known."""
    config = config.get_text_config()
    reach = reaches(config)
    assert reach is not None, "the caller knows what its model's layers see"
    if isinstance(reach, Reach):
        return [reach] * config.num_hidden_layers
    return [reach[name] for name in config.layer_types]


def mask_mod(batch: PackedBatch, reach: Reach) -> MaskMod:
    """The rule as a function of (row, head, query, key) indices, as FlexAttention takes it."""
    group, branch, place = batch.group, batch.branch, batch.position_ids

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_branch = (branch[row, key] == 0) | (branch[row, key] == branch[row, query])
        seen = (key <= query) & (group[row, key] == group[row, query]) & same_branch
        if reach.window is not None:
            seen = seen & (place[row, query] - place[row, key] < reach.window)
        if reach.chunk is not None:
            seen = seen & (place[row, query] // reach.chunk == place[row, key] // reach.chunk)
        return seen

    return sees


def boolean_mask(batch: PackedBatch, reach: Reach) -> Tensor:
    """The rule written out, [R, 1, T, T] bool, True where the query (third) sees the key (last)."""
    group, branch, place = batch.group, batch.branch, batch.position_ids
    length = group.shape[1]
    seen = group[:, :, None] == group[:, None, :]
    seen &= (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    seen &= torch.ones(length, length, dtype=torch.bool, device=group.device).tril_()
    if reach.window is not None:
        seen &= place[:, :, None] - place[:, None, :] < reach.window
    if reach.chunk is not None:
        chunk = place // reach.chunk
        seen &= chunk[:, :, None] == chunk[:, None, :]
    return seen[:, None]


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers to add to the scores: 0, or the least finite number."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def block_mask(batch: PackedBatch, reach: Reach) -> Any:
    """The rule as a FlexAttention `BlockMask`: blocks of 128 × 128 that nobody sees are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = batch.group.shape
    return create_block_mask(
        mask_mod(batch, reach), rows, None, length, length, device=batch.group.device
    )
