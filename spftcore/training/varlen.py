"""Variable-length attention, which `transformers` calls by name, and the borders it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spftcore.training.packing import PackedBatch

VARLEN = "spftcore_varlen"


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
