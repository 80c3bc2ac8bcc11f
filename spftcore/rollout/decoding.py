"""Rows that are decoded together: their cache, their masks, and one step of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spftcore.models import LanguageModel
from spftcore.rollout.growing_cache import growing_cache
from spftcore.rollout.requests import Sampling
from spftcore.rollout.sampling import next_tokens, row_chance


def context_tokens(model: LanguageModel) -> int | None:
    """Tokens that prompt and completion may have together; None where the model sets no limit."""
    return getattr(model.causal_lm.config.get_text_config(), "max_position_embeddings", None)


@dataclass(slots=True)
class Row:
    """One completion that is being written.

    Attributes:
        prompt: place of its prompt in the call.
        sample: its number among the prompt's completions.
        limit: tokens it may have.
        ids: its tokens so far.
        logprobs: of them, under the model.
    """

    prompt: int
    sample: int
    limit: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Batch:
    """Rows decoded together, padded on the left so that their newest tokens share a column.

    Args:
        model: whose active adapter decodes.
        prompts: token ids of each prompt of the rows, by its place.
        rows: what to decode; rows of one prompt share its encoding.
        sampling: temperature, seed and keys of the draws.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        rows: list[Row],
        sampling: Sampling,
    ) -> None:
        self.rows = rows
        self._model = model.model
        self._device = model.device
        self._temperature = sampling.temperature
        known = inspect.signature(model.causal_lm.forward).parameters
        self._takes_positions = "position_ids" in known
        # Mamba's name for it; a model without attention has no use for a mask of what it has read.
        self._recurrent = "cache_params" in known
        self._cache_name = "cache_params" if self._recurrent else "past_key_values"
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self._last_position = (context_tokens(model) or 1 << 31) - 1
        self._tokens: Tensor  # [R], the newest
        self._cache: Any = growing_cache(model.causal_lm.config)
        self._uniform = None
        if sampling.temperature > 0:
            drawn = []
            for row in rows:
                chance = row_chance(sampling.seed, sampling.key(row.prompt), row.sample)
                drawn.append([chance.random() for _ in range(row.limit)])
            width = max(map(len, drawn))
            padded = [numbers + [0.0] * (width - len(numbers)) for numbers in drawn]
            self._uniform = torch.tensor(padded, dtype=torch.float32, device=self._device)
        self._encode(prompts, model.tokenizer.pad_token_id)

    def _encode(self, prompts: Sequence[Sequence[int]], pad: int) -> None:
        """Reads each prompt once, and gives its cache and its next token's logits to its rows."""
        places = list(dict.fromkeys(row.prompt for row in self.rows))
        longest = max(len(prompts[place]) for place in places)
        ids, mask = [], []
        for place in places:
            padding = longest - len(prompts[place])
            ids.append([pad] * padding + list(prompts[place]))
            mask.append([0] * padding + [1] * len(prompts[place]))
        self._mask = torch.tensor(mask, device=self._device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp_(min=0)
        logits = self._forward(torch.tensor(ids, device=self._device), self._positions)
        number = {place: i for i, place in enumerate(places)}
        of_row = [number[row.prompt] for row in self.rows]
        if of_row != list(range(len(places))):
            self._keep(torch.tensor(of_row, device=self._device))
            logits = logits[of_row]
        self._positions = self._positions[:, -1:]
        self._take(logits)

    def step(self) -> None:
        """One more token for every row."""
        # A finished row that is still in the batch may have run out of context.
        self._positions = (self._positions + 1).clamp_(max=self._last_position)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self._take(self._forward(self._tokens[:, None], self._positions))

    def keep(self, wanted: list[int]) -> None:
        """Goes on with these rows alone."""
        chosen = torch.tensor(wanted, device=self._device)
        self._keep(chosen)
        self._tokens = self._tokens[chosen]
        if self._uniform is not None:
            self._uniform = self._uniform[chosen]
        self.rows = [self.rows[i] for i in wanted]

    def _keep(self, chosen: Tensor) -> None:
        self._cache.reorder_cache(chosen)
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits [R, V] after the last column."""
        given = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask[:, -ids.shape[1] :] if self._recurrent else self._mask,
            use_cache=True,
            **{self._cache_name: self._cache},
            **given,
            **self._last_only,
        )
        return output.logits[:, -1]

    def _take(self, logits: Tensor) -> None:
        written = len(self.rows[0].ids)
        uniform = None if self._uniform is None else self._uniform[:, written]
        self._tokens, logprobs = next_tokens(logits, self._temperature, uniform)
        for row, token, logprob in zip(
            self.rows, self._tokens.tolist(), logprobs.tolist(), strict=True
        ):
            row.ids.append(token)
            row.logprobs.append(logprob)
