"""The engine on `transformers` models in this process: batched decoding with a cache."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from spftcore.errors import SpftError, UsageError
from spftcore.models import LanguageModel
from spftcore.rollout.decoding import Batch, Row, context_tokens
from spftcore.rollout.requests import Completion, Finish, Sampling
from spftcore.rollout.stop_texts import StopTexts

logger = logging.getLogger(__name__)

# Rows that are done go on being computed until they are so many of the batch: taking them out
# copies the cache.
DONE_SHARE = 0.1


def active_adapter(model: LanguageModel) -> str | None:
    """Name of the adapter that a model computes with; None for a full model."""
    return str(model.model.active_adapter) if model.parent else None


def end_tokens(model: LanguageModel) -> frozenset[int]:
    """The tokens that end a completion: the tokenizer's end-of-sequence, and what the checkpoint
    names beside it, such as the end of a turn. Of the latter only special tokens count, since an
    architecture's default may be a word of this vocabulary."""
    settings = getattr(model.causal_lm, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    others = named if isinstance(named, list) else [] if named is None else [named]
    special = getattr(model.tokenizer, "added_tokens_decoder", {})
    known = {i for i in others if i in special and special[i].special}
    return frozenset({model.tokenizer.eos_token_id, *known})


class HfEngine:
    """Decodes with a `transformers` model in this process, on the CPU or a GPU.

    A prompt is encoded once for all its samples. Prompts of like length are decoded together; rows
    that are finished leave the batch. A checkpoint's own generation settings (repetition penalty,
    top-k, beams) have no say. Where memory runs out, the batch is halved for good.

    Args:
        model: a causal language model, with or without adapters. It is used where it lies: what
            trains it between calls is seen by the next call.
        batch_size: completions decoded together.
    """

    def __init__(self, model: LanguageModel, *, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
        self.model = model
        self.batch_size = batch_size

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Puts an adapter beside those already on the model.

        Args:
            name: what `generate` calls it.
            folder: a `peft` folder made on the same model.

        Raises:
            SpftError: the adapter does not fit the model, or the name is taken.
        """
        from peft import PeftModel

        held = self.model
        if held.parent and name in held.model.peft_config:
            raise SpftError(f"An adapter '{name}' is loaded already. Choose another name.")
        try:
            if held.parent:
                held.model.load_adapter(str(folder), adapter_name=name)
            else:
                wrapped = PeftModel.from_pretrained(held.model, str(folder), adapter_name=name)
                base = str(held.model.config._name_or_path) or "base"
                self.model = LanguageModel(wrapped, held.tokenizer, parent=base)
        except Exception as error:  # any of a dozen kinds; its text goes into ours
            if held.parent and name in held.model.peft_config:  # half of it is there by now
                held.model.delete_adapter(name)
            raise SpftError(
                f"The adapter '{folder}' does not fit the model ({error}). It was made on another "
                "model, or a file of it is damaged."
            ) from None

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, adapter: str | None = None
    ) -> Iterator[Completion]:
        """Completions in the order in which they are finished (`Engine.generate`).

        A completion that a stop text ends keeps in `ids` and `logprobs` the tokens up to the one
        that completed the stop text; its `text` ends before it. Log-probs are of the fp32 softmax
        of the model's logits.

        Raises:
            SpftError: there is no such adapter.
            UsageError: a grammar is given.
        """
        if any(sampling.grammars):
            raise UsageError(
                "The hf engine decodes freely, and grammars were given. Use vllm or served."
            )
        self._check(adapter)
        context = context_tokens(self.model)
        stops = StopTexts(self.model.tokenizer, sampling.stop)
        ends = end_tokens(self.model)
        waiting: deque[Row] = deque()
        # Greedy completions of one prompt are all the same.
        rows_each = sampling.samples if sampling.temperature > 0 else 1
        copies = 1 if sampling.temperature > 0 else sampling.samples

        def finished(row: Row, finish: Finish) -> Iterator[Completion]:
            text = stops.text(row.ids)
            ids, logprobs = tuple(row.ids), tuple(row.logprobs)
            for copy in range(copies):
                yield Completion(row.prompt, row.sample + copy, text, ids, logprobs, finish)

        for place in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
            room = sampling.max_new_tokens
            if context is not None:
                room = min(room, context - len(prompts[place]))
            for sample in range(rows_each):
                row = Row(place, sample, room)
                if not prompts[place]:
                    yield from finished(row, "failed")
                elif room < 1:
                    yield from finished(row, "too_long")
                else:
                    waiting.append(row)
        while waiting:
            live = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
            batch = None
            try:
                while live:
                    batch, done = self._advance(
                        batch, prompts, live, sampling, adapter, stops, ends
                    )
                    gone = {id(row) for row, _ in done}
                    live = [row for row in live if id(row) not in gone]
                    for row, finish in done:
                        yield from finished(row, finish)
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                batch = None  # its cache must be free before the next one is made
                waiting.extendleft(Row(row.prompt, row.sample, row.limit) for row in live[::-1])
                if len(live) == 1:
                    yield from finished(waiting.popleft(), "failed")
                self._halve(len(live))

    @torch.inference_mode()
    def _advance(
        self,
        batch: Batch | None,
        prompts: Sequence[Sequence[int]],
        live: list[Row],
        sampling: Sampling,
        adapter: str | None,
        stops: StopTexts,
        ends: frozenset[int],
    ) -> tuple[Batch, list[tuple[Row, Finish]]]:
        """Decodes until a row is finished; rows that were finished before leave the batch."""
        with _answering(self.model.model), self._using(adapter):
            if batch is None:
                batch = Batch(self.model, prompts, live, sampling)
            else:
                if len(live) < (1 - DONE_SHARE) * len(batch.rows):
                    alive = {id(row) for row in live}
                    batch.keep([i for i, row in enumerate(batch.rows) if id(row) in alive])
                batch.step()
            while not (done := _finished(live, stops, ends)):
                batch.step()
        return batch, done

    def _check(self, adapter: str | None) -> None:
        held = list(self.model.model.peft_config) if self.model.parent else []
        if adapter is not None and adapter not in held:
            names = ", ".join(held) or "none"
            raise SpftError(
                f"The engine holds no adapter '{adapter}' (loaded: {names}). Load it first with "
                "`load_adapter`."
            )

    @contextlib.contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        """Computes with an adapter; which one is active and what is trainable stay as they were."""
        held = self.model
        if not held.parent or adapter == held.model.active_adapter:
            yield
        elif adapter is None:
            with _same_gradients(held.model), held.model.disable_adapter():
                yield
        else:
            before = held.model.active_adapter
            with _same_gradients(held.model):
                held.model.set_adapter(adapter, inference_mode=True)
                try:
                    yield
                finally:
                    held.model.set_adapter(before)

    def _halve(self, rows: int) -> None:
        """After memory ran out at so many rows."""
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        before, self.batch_size = self.batch_size, max(1, min(self.batch_size, rows) // 2)
        if before != self.batch_size:
            logger.warning(
                "Memory ran out with %d completions at once; going on with %d.",
                rows,
                self.batch_size,
            )


def _finished(live: list[Row], stops: StopTexts, ends: frozenset[int]) -> list[tuple[Row, Finish]]:
    done: list[tuple[Row, Finish]] = []
    for row in live:
        if row.ids[-1] in ends or stops.reached(row.ids):
            done.append((row, "stop"))
        elif len(row.ids) >= row.limit:
            done.append((row, "length"))
    return done


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # PyTorch has no class of its own for the CPU.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextlib.contextmanager
def _answering(model: Any) -> Iterator[None]:
    """Without dropout; what was in training mode is again afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _same_gradients(model: Any) -> Iterator[None]:
    """`peft` makes the adapter it switches to trainable and all others not."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
