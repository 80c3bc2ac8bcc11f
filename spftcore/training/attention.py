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
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs
from spftcore.models import LanguageModel
from spftcore.training.attention_parts import (
    PARTS,
    Parts,
    last_mlp_where_asked,
    parts_attention,
)
from spftcore.training.groups import Group
from spftcore.training.masks import (
    Reach,
    additive_mask,
    block_mask,
    boolean_mask,
    layer_reaches,
    reaches,
)
from spftcore.training.packing import PackedBatch, RowCost, choose_rows, pack
from spftcore.training.varlen import VARLEN, sequence_borders, varlen_attention

Backend = Literal["parts", "sdpa", "flex", "varlen", "plain"]

ROW_TOKENS = 4096  # a mask of a longer row would weigh more than 16 MB
FLEX_BLOCK = 128  # FlexAttention's block; rows of whole blocks need no bounds checks
# What one more call of attention in a layer takes on the CPU, forward and backward, in operations
# of a forward matrix product (measured: docs/training.md).
CALL = 3e6


def row_cost(model: LanguageModel) -> RowCost:
    """What rows cost the layers of a model, in operations of a forward pass.

    A token costs 2 operations a weight; a pair of tokens costs 4 · width operations a layer (its
    score and its share of the mixed values). On the CPU both kinds run at like rates once the
    element-wise work of a token is counted in: this predicts measured times of rows within 10 %.
    """
    decoder = model.causal_lm.base_model
    embedding = model.causal_lm.get_input_embeddings().weight
    weights = sum(p.numel() for p in decoder.parameters() if p.dim() > 1) - embedding.numel()
    config = model.causal_lm.config.get_text_config()
    layers = config.num_hidden_layers
    return RowCost(2.0 * max(1, weights), 4.0 * layers * config.hidden_size, CALL * layers)


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
        rows = choose_rows(groups, self.cost, ROW_TOKENS)
        if self.backend == "parts":
            length = max(sum(len(groups[i]) for i in row) for row in rows)
            causal = all(len(r) == 1 and len(groups[r[0]].completions) == 1 for r in rows)
            if self.cost.parts(groups) < self.cost.rows(len(rows), length, causal=causal):
                return pack(groups, [everything], pad, device)
        # Rows by choice, also where they are but one: it is not taken apart.
        return replace(pack(groups, rows, pad, device), spans=())

    def inputs(self, model: LanguageModel, batch: PackedBatch) -> dict[str, Any]:
        """What the model's forward pass is given beside the tokens.

        Raises:
            SpftError: the model has layers whose mask is not known, or its attention is another
                than this back end's.
        """
        wanted = _implementation_of(self.backend)
        if wanted is not None and wanted != implementation(model):
            raise SpftError(
                f"The model runs with attention '{implementation(model)}', but its sequences are "
                f"laid out for '{wanted}'. Score them inside `with attention.on(model)`."
            )
        if self.backend == "varlen":
            return {"position_ids": batch.position_ids, **sequence_borders(batch)}
        config = model.causal_lm.config
        reach = reaches(config)
        if self.backend == "parts" and batch.spans and reach is not None:
            return {
                "position_ids": batch.position_ids,
                "parts": Parts(batch, layer_reaches(config)),
            }
        length = batch.input_ids.shape[1]
        if batch.causal and self.backend != "flex" and self._own_mask_is_right(reach, length):
            # No mask: the model's own causal attention, which computes fewer masked scores. What
            # stands behind a sequence is never seen by it.
            return {}
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

    def _own_mask_is_right(self, reach: Any, length: int) -> bool:
        # Models make no masks for attention that is registered here; without any, SDPA is causal
        # over the whole row.
        if self.backend != "parts":
            return True
        layers = reach.values() if isinstance(reach, dict) else [reach]
        return all(one is not None and one.covers(length) for one in layers)

    @contextlib.contextmanager
    def on(self, model: LanguageModel) -> Iterator[None]:
        """While a model trains: its attention is this back end's, and its own again afterwards."""
        wanted = _implementation_of(self.backend)
        before = implementation(model)
        if wanted is None or wanted == before:
            yield
            return
        model.causal_lm.set_attn_implementation(wanted)
        layers = getattr(model.causal_lm.get_decoder(), "layers", [None])
        with last_mlp_where_asked(layers) if wanted == PARTS else contextlib.nullcontext():
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


def _implementation_of(backend: Backend) -> str | None:
    """What a back end needs a model's attention to be; None: as it is."""
    from transformers import AttentionInterface

    if backend == "flex":
        return "flex_attention"
    if backend == "parts":
        AttentionInterface.register(PARTS, parts_attention)
        return PARTS
    if backend == "varlen" and importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2"
    if backend == "varlen":
        AttentionInterface.register(VARLEN, varlen_attention)
        return VARLEN
    return None
