"""Attention by parts: one row of groups, each prompt attended causally and what follows it apart.

`transformers` calls the function by name. Autograd through slices of queries, keys and values
would fill and add a whole gradient for every slice; on the CPU the pieces are therefore one
operation, whose backward pass writes each piece's gradient where it belongs.

Nobody asks for the last layer's hidden states but at the tokens that predict a completion, a few in
a hundred: there, only they are queries and only they pass the MLP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from spftcore.errors import SpftError
from spftcore.training.masks import Reach
from spftcore.training.packing import PackedBatch

PARTS = "spftcore_parts"


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a row that attend together.

    Attributes:
        first, end: the queries.
        start: where the keys begin; they end with the queries.
        mask: [end - first, end - start] bool; none: causal (then `first` is `start`).
    """

    first: int
    end: int
    start: int
    mask: Tensor | None


class Parts:
    """How one row of groups is taken apart, and the masks that this needs.

    Args:
        batch: groups in one row without padding.
        layers: how far each layer sees.
    """

    def __init__(self, batch: PackedBatch, layers: Sequence[Reach]) -> None:
        self._spans = batch.spans
        self.predictors = torch.unique(batch.positions)  # [P], in the row
        lengths = [length for _, length in batch.spans]
        self._branch = batch.branch[0].split(lengths)
        self._place = batch.position_ids[0].split(lengths)
        self._layers = layers
        self._cut: dict[tuple[int, Reach, bool], list[tuple[int, int, Tensor | None]]] = {}
        self._numbers: dict[tuple[int, torch.dtype], Tensor] = {}

    def pieces(self, layer: int) -> list[Piece]:
        """The pieces of the row in a layer, from left to right.

        In the last layer only tokens that predict a completion are queries: nobody asks for the
        hidden states of the others.
        """
        last = layer == len(self._layers) - 1
        found, start = [], 0
        for index, (_, length) in enumerate(self._spans):
            reach = self._layers[layer]
            # All layers that see the whole group share its masks.
            key = index, Reach() if reach.covers(length) else reach, last
            if key not in self._cut:
                self._cut[key] = self._group(*key)
            found += [Piece(start + a, start + b, start, mask) for a, b, mask in self._cut[key]]
            start += length
        return found

    def additive(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """A mask of `pieces` as numbers to add to the scores: 0 or minus infinity."""
        key = id(mask), dtype
        if key not in self._numbers:
            hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            self._numbers[key] = hidden.masked_fill_(~mask, float("-inf"))
        return self._numbers[key]

    def _group(self, index: int, reach: Reach, last: bool) -> list[tuple[int, int, Tensor | None]]:
        branch, place = self._branch[index], self._place[index]
        prompt, length = self._spans[index]
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

        if last:
            return [(prompt - 1, length, mask(prompt - 1, length))]
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
        [1, T, heads, D]; zeros where a token is no query (see `Parts.pieces`).

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
    if parts is not None and dropout == 0.0 and query.device.type == "cpu":
        pieces = parts.pieces(module.layer_idx)
        masks = [None if p.mask is None else parts.additive(p.mask, query.dtype) for p in pieces]
        out = _Pieces.apply(query, key, value, pieces, masks, scaling)
        return out.transpose(1, 2), None

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
        )

    if parts is None:
        return attend(query, key, value, attention_mask).transpose(1, 2), None
    out = torch.zeros_like(query)
    for piece in parts.pieces(module.layer_idx):
        keys = slice(piece.start, piece.end)
        out[:, :, piece.first : piece.end] = attend(
            query[:, :, piece.first : piece.end], key[:, :, keys], value[:, :, keys], piece.mask
        )
    return out.transpose(1, 2), None


@contextlib.contextmanager
def last_mlp_where_asked(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While the body runs, the last layer's MLP computes rows that are taken apart only where a
    completion is predicted; elsewhere it gives zeros.

    Args:
        layers: of the decoder. Where the last one has no module `mlp` that maps one tensor to one
            of its shape, nothing is left out.
    """
    layer = layers[-1]
    mlp = getattr(layer, "mlp", None)
    if not isinstance(mlp, nn.Module):
        yield
        return
    asked: list[Tensor] = []  # the rows of the forward pass at work
    shape: list[torch.Size] = []

    def note(_: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        parts = named.get("parts")
        asked[:] = [] if parts is None else [parts.predictors]

    def take(_: nn.Module, arguments: tuple[Any, ...]) -> Any:
        shape.clear()
        if not asked or len(arguments) != 1:
            return None
        shape.append(arguments[0].shape)
        return (arguments[0].flatten(0, 1)[asked[0]][None],)

    def put(_: nn.Module, arguments: Any, out: Any) -> Any:
        if not shape:
            return None
        whole = out.new_zeros(shape[0]).flatten(0, 1)
        return whole.index_copy(0, asked[0], out[0]).view(shape[0])

    hooks = [
        layer.register_forward_pre_hook(note, with_kwargs=True),
        mlp.register_forward_pre_hook(take),
        mlp.register_forward_hook(put),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Pieces(torch.autograd.Function):
    """All pieces of a row by the CPU's flash kernel: queries, keys and values [1, heads, T, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pieces: list[Piece],
        masks: list[Tensor | None],
        scale: float | None,
    ) -> Tensor:
        out = _by_token(query)
        if sum(piece.end - piece.first for piece in pieces) < query.shape[2]:
            out.zero_()
        sums = []
        for piece, mask in zip(pieces, masks, strict=True):
            q, k, v = _taken(piece, query, key, value)
            part, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
            )
            out[:, :, piece.first : piece.end] = part
            sums.append(logsumexp)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.pieces, ctx.masks, ctx.scale = pieces, masks, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        query, key, value, out, *sums = ctx.saved_tensors
        whole = [torch.zeros_like(_by_token(query)) for _ in range(3)]
        for piece, mask, logsumexp in zip(ctx.pieces, ctx.masks, sums, strict=True):
            q, k, v = _taken(piece, query, key, value)
            queries = slice(piece.first, piece.end)
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient[:, :, queries],
                q,
                k,
                v,
                out[:, :, queries],
                logsumexp,
                0.0,
                mask is None,
                attn_mask=mask,
                scale=ctx.scale,
            )
            whole[0][:, :, queries] = parts[0]
            for total, part in zip(whole[1:], parts[1:], strict=True):
                total[:, :, piece.start : piece.end] += part
        return (*whole, None, None, None)


def _by_token(like: Tensor) -> Tensor:
    """Empty [1, heads, T, D] in which the heads of a token lie together, as layers want them."""
    return torch.empty_like(like.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )


def _taken(piece: Piece, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    keys = slice(piece.start, piece.end)
    return query[:, :, piece.first : piece.end], key[:, :, keys], value[:, :, keys]
