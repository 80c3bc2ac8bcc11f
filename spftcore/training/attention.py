"""Attention back ends: how groups are laid out for one, and what the model's forward pass is given.

sdpa     shared prompts; the tree mask written out, boolean for SDPA, additive for eager
         attention. Runs everywhere; computes masked scores too.
flex     shared prompts; FlexAttention with a block mask. GPU only: it has no backward pass on
         the CPU.
varlen   separate sequences end to end without any mask, by `flash-attn` where it is installed
         and PyTorch's own variable-length attention elsewhere. GPU only; for stages without
         shared prompts.
plain    separate sequences padded on the right: right for every causal model.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs
from spftcore.models import LanguageModel
from spftcore.training.groups import Group
from spftcore.training.masks import Reach, additive_mask, block_mask, boolean_mask, reaches
from spftcore.training.packing import PackedBatch, RowCost, choose_rows, pack

Backend = Literal["sdpa", "flex", "varlen", "plain"]

ROW_TOKENS = 4096  # a mask of a longer row would weigh more than 16 MB
FLEX_BLOCK = 128  # FlexAttention's block; rows of whole blocks need no bounds checks
# How much longer one operation of attention takes than one of a matrix product (measured:
# docs/training.md).
ATTENTION_SLOWDOWN = 3.0


def row_cost(model: LanguageModel) -> RowCost:
    """What rows cost the layers of a model, in operations of matrix products per token.

    A token costs 2 operations a weight; a pair of tokens costs 4 · width operations a layer (its
    score and its share of the mixed values).
    """
    decoder = model.causal_lm.base_model
    embedding = model.causal_lm.get_input_embeddings().weight
    weights = sum(p.numel() for p in decoder.parameters() if p.dim() > 1) - embedding.numel()
    config = model.causal_lm.config.get_text_config()
    scores = 4.0 * config.num_hidden_layers * config.hidden_size
    return RowCost(2.0 * max(1, weights), ATTENTION_SLOWDOWN * scores)


@dataclass(frozen=True, slots=True)
class Attention:
    """A back end for one model.

    Attributes:
        backend: see the top of the file.
        cost: of rows, by which they are laid out.
    """

    backend: Backend
    cost: RowCost

    def pack(self, model: LanguageModel, groups: Sequence[Group]) -> PackedBatch:
        """Lays out groups; their completions keep their order."""
        pad, device = model.tokenizer.pad_token_id, model.device
        if self.backend in ("plain", "varlen"):
            groups = [part for group in groups for part in group.separate()]
        everything = list(range(len(groups)))
        if self.backend == "plain":
            return pack(groups, [[i] for i in everything], pad, device)
        if self.backend == "varlen":
            return pack(groups, [everything], pad, device)
        if self.backend == "flex":
            return pack(groups, [everything], pad, device, multiple=FLEX_BLOCK)
        return pack(groups, choose_rows(groups, self.cost, ROW_TOKENS), pad, device)

    def inputs(self, model: LanguageModel, batch: PackedBatch) -> dict[str, Any]:
        """What the model's forward pass is given beside the tokens.

        Raises:
            SpftError: the model has layers whose mask is not known.
        """
        if self.backend == "varlen":
            return {"position_ids": batch.position_ids, **sequence_borders(batch)}
        if batch.causal and self.backend != "flex":
            # No mask: the model's own causal attention, which computes no masked scores. What
            # stands behind a sequence is never seen by it.
            return {}
        config = model.causal_lm.config
        reach = reaches(config)
        if reach is None:
            raise SpftError(
                f"Models of type '{config.model_type}' have layers that cannot share a prompt."
            )

        def mask(one: Reach) -> Any:
            if self.backend == "flex":
                return block_mask(batch, one)
            seen = boolean_mask(batch, one)
            if implementation(model) == "eager":
                return additive_mask(seen, model.causal_lm.dtype)
            return seen

        masks = (
            {name: mask(one) for name, one in reach.items()}
            if isinstance(reach, dict)
            else (mask(reach))
        )
        return {"attention_mask": masks, "position_ids": batch.position_ids}

    @contextlib.contextmanager
    def on(self, model: LanguageModel) -> Iterator[None]:
        """While a model trains: its attention is this back end's, and its own again afterwards."""
        wanted = {"flex": "flex_attention", "varlen": _varlen_implementation()}.get(self.backend)
        before = implementation(model)
        if wanted is None or wanted == before:
            yield
            return
        model.causal_lm.set_attn_implementation(wanted)
        try:
            yield
        finally:
            model.causal_lm.set_attn_implementation(before)


def completion_logprobs(model: LanguageModel, batch: PackedBatch, attention: Attention) -> Tensor:
    """Log-probability of every completion token under the model, [N] fp32.

    The hidden states of completion tokens are picked before the projection, and the projection is
    chunked: logits [N, V] are never held whole.
    """
    hidden = model.hidden_states(batch.input_ids, **attention.inputs(model, batch))
    head = model.head
    return linear_logprobs(
        hidden.flatten(0, 1)[batch.positions],
        head.weight,
        batch.targets,
        head.bias,
        scale=head.scale,
        softcap=head.softcap,
    )


def implementation(model: LanguageModel) -> str:
    """The attention `transformers` runs the model with: sdpa, eager, flash_attention_2 …"""
    return str(model.causal_lm.config.get_text_config()._attn_implementation)


# -- variable-length attention ------------------------------------------------------------------

VARLEN = "spftcore_varlen"  # under this name `transformers` finds PyTorch's own


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


def _varlen_implementation() -> str:
    if importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2"
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, varlen_attention)
    return VARLEN


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
