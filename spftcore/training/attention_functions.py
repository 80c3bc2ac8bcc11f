"""Attention functions that `transformers` calls by name: SDPA by parts, and PyTorch's varlen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from spftcore.errors import SpftError
from spftcore.training.masks import Reach
from spftcore.training.packing import PackedBatch

PARTS = "spftcore_parts"
VARLEN = "spftcore_varlen"


class Parts:
    """How one row of groups is taken apart, and the masks that this needs.

    Args:
        batch: groups in one row without padding.
        layers: how far each layer sees.
    """

    def __init__(self, batch: PackedBatch, layers: Sequence[Reach]) -> None:
        self.lengths = [length for _, length in batch.spans]
        self._prompts = [prompt for prompt, _ in batch.spans]
        self._branch = batch.branch[0].split(self.lengths)
        self._place = batch.position_ids[0].split(self.lengths)
        self._layers = layers
        self._masks: dict[tuple[int, Reach], list[tuple[int, int, Tensor | None]]] = {}

    def queries(self, index: int, layer: int) -> list[tuple[int, int, Tensor | None]]:
        """For one group, its stretches of tokens that attend together.

        Returns:
            (first, end, mask) of each: its queries see the group's keys before `end`, by a mask
            [end - first, end] or, without one, causally (then `first` is 0).
        """
        reach = self._layers[layer]
        # All layers that see the whole group share its masks.
        wanted = Reach() if reach.covers(self.lengths[index]) else reach
        key = index, wanted
        if key not in self._masks:
            self._masks[key] = self._cut(index, wanted)
        return self._masks[key]

    def _cut(self, index: int, reach: Reach) -> list[tuple[int, int, Tensor | None]]:
        branch, place = self._branch[index], self._place[index]
        length, prompt = self.lengths[index], self._prompts[index]
        alone = int(branch[-1]) == 1  # one completion: the whole group is one sequence

        def mask(first: int, end: int) -> Tensor:
            order = torch.arange(end, device=branch.device)
            seen = order[None, :] <= order[first:, None]
            seen &= (branch[None, :end] == 0) | (branch[None, :end] == branch[first:end, None])
            if reach.window is not None:
                seen &= place[first:end, None] - place[None, :end] < reach.window
            if reach.chunk is not None:
                seen &= place[first:end, None] // reach.chunk == place[None, :end] // reach.chunk
            return seen

        sequence = length if alone else prompt
        causal = reach.covers(sequence)
        cut = [(0, sequence, None if causal else mask(0, sequence))]
        return cut if alone else [*cut, (prompt, length, mask(prompt, length))]


def parts_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    parts: Parts | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **other: Any,
) -> tuple[Tensor, None]:
    """SDPA called for each group of a row: its prompt causally, then all that follows the prompt.

    Args:
        module: the attention layer.
        query: [1, heads, T, D].
        key, value: [1, key heads, T, D].
        attention_mask: where `parts` is none, the mask of rows ([R, 1, T, T] bool), or none for
            causal rows.
        parts: how the row is taken apart.
        scaling: of the scores.
        dropout: of the attention weights.
        other: what the layer wants beside this.

    Returns:
        [1, T, heads, D].

    Raises:
        SpftError: the layer wants what SDPA cannot do (capped scores, sinks, biases).
    """
    unknown = [
        name for name in ("softcap", "s_aux", "position_bias") if other.get(name) is not None
    ]
    if unknown:
        raise SpftError(f"SDPA has no {unknown[0]}.")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
        )

    if parts is None:
        return attend(query, key, value, attention_mask).transpose(1, 2), None
    split = (whole.split(parts.lengths, dim=2) for whole in (query, key, value))
    out = [
        attend(q[:, :, first:end], k[:, :, :end], v[:, :, :end], mask)
        for index, (q, k, v) in enumerate(zip(*split, strict=True))
        for first, end, mask in parts.queries(index, module.layer_idx)
    ]
    return torch.cat(out, dim=2).transpose(1, 2), None


def sequence_borders(batch: PackedBatch) -> dict[str, Any]:
    """Where the sequences of a single row begin and end, as `transformers` hands it to attention.

    Args:
        batch: one row of groups with one completion each.
    """
    starts = torch.nonzero(batch.position_ids[0] == 0).flatten()
    end = starts.new_tensor([batch.input_ids.shape[1]])
    borders = torch.cat([starts, end]).to(torch.int32)
    longest = int((borders[1:] - borders[:-1]).max())
    return {
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    cu_seq_lens_k: Tensor,
    max_length_q: int,
    max_length_k: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """PyTorch's variable-length attention in the form `transformers` calls attention in.

    Args:
        module: the attention layer.
        query: [1, heads, T, D] bf16 or fp16.
        key, value: [1, key heads, T, D].
        attention_mask: none.
        cu_seq_lens_q, cu_seq_lens_k: [S + 1] int32, borders of the sequences.
        max_length_q, max_length_k: tokens of the longest.
        scaling: of the scores.
        sliding_window: tokens a layer sees, the token itself included.

    Returns:
        [1, T, heads, D].
    """
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)
    out = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=window,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor), "nothing was asked for beside the output"
    return out[None], None
