"""Who takes the optimizer steps: ours, a plain PyTorch loop, TRL's DPOTrainer.

Every provider trains the same model on the same pairs with the same loss (DPO, beta 0.1, the
reference being the model as it was at the start), clips at 1 and uses AdamW without decay.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from step_cases import Cell
from step_problem import (
    BETA,
    EOS,
    PAD,
    Group,
    Tokens,
    add_adapter,
    as_text,
    lora_config,
    make_group,
    make_tokenizer,
    step_groups,
)
from torch import Tensor

LEARNING_RATE = 1e-6

# Called at the end of every step with what the provider knows of it: loss, gradient norm.
Stamp = Callable[[dict[str, float]], None]


class Unavailable(Exception):
    """A provider cannot run here; the text says why."""


@dataclass(frozen=True)
class Run:
    """What a provider is given: the cell, the bare model on its device, and the steps to take."""

    cell: Cell
    model: Any
    steps: int
    stamp: Stamp


Provider = Callable[[Run], None]


# Plain PyTorch: what one writes first.


def padded_logprobs(model: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
    """Log-probability of each completion [S], from one padded forward pass and all its logits."""
    device = model.device
    rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)[:, None]
    starts = torch.tensor([len(p) for p in prompts], device=device)[:, None]
    place = torch.arange(longest, device=device)
    logits = model(input_ids=ids, attention_mask=(place < lengths).long()).logits
    logprobs = F.log_softmax(logits[:, :-1].float(), dim=-1)
    chosen = logprobs.gather(2, ids[:, 1:, None])[..., 0]
    scored = (place >= starts) & (place < lengths)
    return (chosen * scored[:, 1:]).sum(1)


def pairs_of(groups: list[Group]) -> list[tuple[Tokens, Tokens, Tokens]]:
    return [(g.prompt, g.gold, answer) for g in groups for answer in g.answers]


def dpo_loss(gold: Tensor, answer: Tensor, gold_reference: Tensor, answer_reference: Tensor) -> Any:
    return F.softplus(-BETA * ((gold - gold_reference) - (answer - answer_reference)))


def plain(run: Run) -> None:
    model = add_adapter(run.cell, run.model)
    prompts, golds, answers = zip(*pairs_of(step_groups(run.cell)), strict=True)

    def both() -> tuple[Tensor, Tensor]:
        return (
            padded_logprobs(model, prompts, golds),
            padded_logprobs(model, prompts, answers),
        )

    with torch.no_grad():
        references = both()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    for _ in range(run.steps):
        optimizer.zero_grad(set_to_none=True)
        loss = dpo_loss(*both(), *references).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        run.stamp({"loss": float(loss.detach()), "grad_norm": float(norm)})


# Ours.


def language_model(cell: Cell, model: Any) -> Any:
    from spftcore.models import LanguageModel

    wrapped = add_adapter(cell, model)
    return LanguageModel(wrapped, make_tokenizer(cell), parent="config" if cell.lora else "")


def attention_of(language: Any, layout: str) -> Any:
    """How ours lays sequences out: a setting of `training.attention`, or ours for this bench."""
    from spftcore.errors import SpftError
    from spftcore.training.attention import Attention
    from spftcore.training.packing import PackedBatch, pack
    from spftcore.training.self_check import choose

    class OneGroupARow(Attention):
        """Shared prompts, but rows padded to the longest group."""

        def pack(self, model: Any, groups: Any) -> PackedBatch:
            rows = [[i] for i in range(len(groups))]
            return pack(groups, rows, PAD, model.device)

    try:
        found = choose(language, "sdpa" if layout == "one group a row" else layout)
    except SpftError as error:
        raise Unavailable(str(error)) from None
    if layout not in ("auto", "plain") and found.backend == "plain":
        raise Unavailable(f"{layout} failed here: ours falls back to plain sequences")
    return OneGroupARow("sdpa", found.cost) if layout == "one group a row" else found


def preference_pairs(language: Any, group: Group, offset: float = 0.0) -> list[Any]:
    """The group's pairs; their reference is the model as it is, plus `offset` on golds."""
    from spftcore.training.groups import TokenSequence
    from spftcore.training.objectives import PreferencePair

    sequences = [TokenSequence(group.prompt, c) for c in group.completions]
    references = []
    for sequence in sequences:
        ids = torch.tensor([[*sequence.prompt, *sequence.completion]], device=language.device)
        with torch.no_grad():
            # The rows that predict the completion, and no others: all logits would not fit.
            logits = language.model(input_ids=ids, logits_to_keep=len(sequence.completion) + 1)
            logprobs = F.log_softmax(logits.logits[0, :-1].float(), dim=-1)
        targets = ids[0, len(sequence.prompt) :, None]
        references.append(logprobs.gather(1, targets)[:, 0].cpu())
    return [
        PreferencePair(sequences[0], answer, references[0] + offset, reference, 1.0)
        for answer, reference in zip(sequences[1:], references[1:], strict=True)
    ]


def objective(attention: Any) -> Any:
    from spftcore.losses import LossConfig
    from spftcore.training.objectives import Preference

    goal = Preference(LossConfig("dpo", BETA))
    goal.attention = attention
    return goal


class MadeWhenAsked:
    """A data set of pairs that exist only while a step uses them; the reference is made up."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __len__(self) -> int:
        assert self._cell.pairs_held is not None
        return self._cell.pairs_held

    def __getitem__(self, index: int) -> Any:
        from spftcore.training.groups import TokenSequence
        from spftcore.training.objectives import PreferencePair

        group = make_group(self._cell, index)
        gold, answer = (TokenSequence(group.prompt, c) for c in group.completions[:2])
        return PreferencePair(
            gold, answer, torch.zeros(len(group.gold)), torch.zeros(len(group.answers[0])), 1.0
        )


def ours(layout: str) -> Provider:
    def provider(run: Run) -> None:
        from spftcore.config import TrainConfig
        from spftcore.training.loop import fit

        language = language_model(run.cell, run.model)
        attention = attention_of(language, layout)
        items: Any = MadeWhenAsked(run.cell)
        if run.cell.pairs_held is None:
            items = [p for g in step_groups(run.cell) for p in preference_pairs(language, g)]
        settings = TrainConfig(
            steps=run.steps,
            batch_size=run.cell.pairs,
            learning_rate=LEARNING_RATE,
            warmup=0,
            weight_decay=0,
            clip=1.0,
        )

        def report(step: int, statistics: dict[str, float]) -> None:
            run.stamp({"loss": statistics["loss"]})

        goal = objective(attention)
        with attention.on(language):
            fit(language, items, goal, settings, seed=0, dropout=False, report=report)

    return provider


# TRL.


def trl(*, precomputed: bool, checkpointing: bool = True, liger: bool = False) -> Provider:
    def provider(run: Run) -> None:
        os.environ["TQDM_DISABLE"] = "1"
        try:
            from datasets import Dataset, disable_caching
            from trl import DPOConfig, DPOTrainer
        except ModuleNotFoundError as error:
            raise Unavailable(f"not installed ({error.name})") from None
        if liger:
            try:
                importlib.metadata.version("liger-kernel")
            except importlib.metadata.PackageNotFoundError:
                raise Unavailable("not installed (liger-kernel)") from None
            if run.cell.device == "cpu":
                raise Unavailable("Liger's layers are Triton kernels: they need a GPU")
        from transformers import TrainerCallback

        class Stamping(TrainerCallback):
            def on_log(
                self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
            ) -> None:
                if "grad_norm" in logs:
                    run.stamp({"loss": logs["loss"], "grad_norm": logs["grad_norm"]})

        disable_caching()
        rows = [
            {"prompt": as_text(p).strip(), "chosen": as_text(g), "rejected": as_text(a)}
            for p, g, a in pairs_of(step_groups(run.cell))
        ]
        bf16 = run.cell.dtype == "bfloat16"
        with tempfile.TemporaryDirectory() as folder:
            arguments = DPOConfig(
                output_dir=folder,
                beta=BETA,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                max_steps=run.steps,
                per_device_train_batch_size=run.cell.pairs,
                max_length=None,  # its default would cut the longer prompts
                bf16=bf16,
                use_cpu=run.cell.device == "cpu",
                dataloader_pin_memory=run.cell.device != "cpu",
                gradient_checkpointing=checkpointing,
                precompute_ref_log_probs=precomputed,
                use_liger_kernel=liger,
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            reference = None
            if not precomputed and not run.cell.lora:
                import copy

                reference = copy.deepcopy(run.model)
            trainer = DPOTrainer(
                model=run.model,
                ref_model=reference,
                args=arguments,
                train_dataset=Dataset.from_list(rows),
                processing_class=make_tokenizer(run.cell),
                peft_config=lora_config(run.cell) if run.cell.lora else None,
                callbacks=[Stamping()],
            )
            _same_tokens(trainer.train_dataset, run.cell)
            trainer.train()

    return provider


def _same_tokens(dataset: Any, cell: Cell) -> None:
    for row, (prompt, gold, answer) in zip(dataset, pairs_of(step_groups(cell)), strict=True):
        made = [tuple(row[key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids")]
        if made != [prompt, gold, answer]:
            raise AssertionError(f"TRL arrived at other tokens; EOS is {EOS}: {made[1][-3:]}")


LAYOUTS = {
    "ours": "auto",
    "ours-no-packing": "one group a row",
    "ours-no-sharing": "plain",
    "ours-flex": "flex",
    "ours-varlen": "varlen",
}
PROVIDERS: dict[str, Provider] = {
    **{name: ours(layout) for name, layout in LAYOUTS.items()},
    "plain": plain,
    "trl": trl(precomputed=False),
    "trl-precomputed": trl(precomputed=True),
    "trl-no-checkpointing": trl(precomputed=True, checkpointing=False),
    "trl-liger": trl(precomputed=True, liger=True),
}


# The check before anything is timed.

GOLD_OFFSET = -0.05  # per gold token, in the check's references: a loss away from log 2


def first_steps(cell: Cell, model: Any, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Loss and gradient norm of the step's pairs, by each of `names` (ours) and by plain PyTorch.

    Plain takes one pair after another, each completion alone and unpadded: little memory, and
    nothing in it can go wrong in the way packing can.
    """
    groups = step_groups(cell)
    language = language_model(cell, model)
    parameters = [p for p in language.model.parameters() if p.requires_grad]
    items = [p for g in groups for p in preference_pairs(language, g, GOLD_OFFSET)]
    found: dict[str, dict[str, float]] = {}

    def note(name: str, loss: float) -> None:
        squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
        found[name] = {"loss": loss, "grad_norm": float(torch.stack(squares).sum().sqrt())}
        language.model.zero_grad(set_to_none=True)

    for name in names:
        try:
            attention = attention_of(language, LAYOUTS[name])
        except Unavailable:
            continue  # its row will say why
        goal = objective(attention)
        with attention.on(language):
            summed, _ = goal.losses(language, items)
            (summed / goal.normaliser(items)).backward()
        note(name, float(summed.detach()) / goal.normaliser(items))
    for name, per_token in (("plain", GOLD_OFFSET), ("plain, first step", 0.0)):
        total = 0.0
        for prompt, gold, answer in pairs_of(groups):
            a = padded_logprobs(language.model, [prompt], [gold])
            b = padded_logprobs(language.model, [prompt], [answer])
            loss = dpo_loss(a, b, a.detach() + per_token * len(gold), b.detach()).sum()
            (loss / cell.pairs).backward()
            total += float(loss.detach()) / cell.pairs
        note(name, total)
    return found
