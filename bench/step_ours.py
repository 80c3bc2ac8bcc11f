"""Ours in `bench/step.py`: the package's own loop over pairs or whole groups, in every layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from step_cases import Cell
from step_problem import (
    BETA,
    LEARNING_RATE,
    PAD,
    Group,
    Run,
    Tokens,
    Unavailable,
    add_adapter,
    make_group,
    make_tokenizer,
    mixed_precision,
    pairs_of,
    step_groups,
)
from step_rivals import dpo_loss
from torch import Tensor

from spftcore.config import LoopConfig, TrainConfig
from spftcore.errors import SpftError
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel
from spftcore.training import groups as packed
from spftcore.training.attention import Attention
from spftcore.training.loop import fit
from spftcore.training.objectives import Preference, PreferenceGroup, PreferencePair
from spftcore.training.packing import PackedBatch, pack
from spftcore.training.self_check import choose

LOSS = LossConfig("dpo", BETA)
GOLD_OFFSET = -0.05  # per gold token, in the check's references: a loss away from log 2


class OneGroupARow(Attention):
    """Shared prompts, but each group in a row of its own, padded to the longest."""

    def pack(self, model: LanguageModel, groups: Sequence[packed.Group]) -> PackedBatch:
        rows = [[i] for i in range(len(groups))]
        return pack(groups, rows, PAD, model.device)


def attention_of(language: LanguageModel, name: str) -> Attention:
    """How the provider called `name` lays sequences out.

    Raises:
        Unavailable: not on this machine, or not with this model.
    """
    layout = {
        "ours-no-packing": "sdpa",
        "ours-no-sharing": "plain",
        "ours-flex": "flex",
        "ours-varlen": "varlen",
    }.get(name, "auto")
    try:
        found = choose(language, layout)  # type: ignore[arg-type]
    except SpftError as error:
        raise Unavailable(str(error)) from None
    if layout not in ("auto", "plain") and found.backend == "plain":
        raise Unavailable(f"{layout} failed here: ours falls back to plain sequences")
    return OneGroupARow("sdpa", found.cost) if name == "ours-no-packing" else found


def language_model(cell: Cell, model: Any) -> LanguageModel:
    wrapped = add_adapter(cell, model)
    return LanguageModel(wrapped, make_tokenizer(cell), parent="config" if cell.lora else "")


def logprobs_alone(cell: Cell, model: Any, prompt: Tokens, completion: Tokens) -> Tensor:
    """Log-prob of each token [tokens] from one unpadded sequence, by `transformers` and softmax.

    Only the rows that predict the completion are projected: all logits of a long prompt and a
    large vocabulary would not fit.
    """
    ids = torch.tensor([[*prompt, *completion]], device=model.device)
    with mixed_precision(cell):
        logits = model(input_ids=ids, logits_to_keep=len(completion) + 1).logits
    logprobs = F.log_softmax(logits[0, :-1].float(), dim=-1)
    return logprobs.gather(1, ids[0, -len(completion) :, None])[:, 0]


def references(cell: Cell, language: LanguageModel, group: Group) -> list[Tensor]:
    """Log-probs [tokens] of each completion under the model as it is."""
    with torch.no_grad():
        return [
            logprobs_alone(cell, language.model, group.prompt, c).cpu() for c in group.completions
        ]


def as_pairs(group: Group, reference: Sequence[Tensor]) -> list[PreferencePair]:
    gold, *answers = (packed.TokenSequence(group.prompt, c) for c in group.completions)
    return [
        PreferencePair(gold, answer, reference[0], own, 1.0)
        for answer, own in zip(answers, reference[1:], strict=True)
    ]


def as_item(group: Group, reference: Sequence[Tensor]) -> PreferenceGroup:
    completions = packed.Group(group.prompt, tuple(group.completions))
    return PreferenceGroup(completions, tuple(reference), (1.0,) * len(group.answers))


class MadeWhenAsked:
    """A data set of pairs that exist only while a step uses them; the reference is made up."""

    def __init__(self, cell: Cell) -> None:
        assert cell.pairs_held is not None
        self._cell, self._length = cell, cell.pairs_held

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> PreferencePair:
        if index >= self._length:
            raise IndexError(index)
        group = make_group(self._cell, index)
        return as_pairs(group, [torch.zeros(len(c)) for c in group.completions])[0]


def work(
    cell: Cell, language: LanguageModel, name: str, offset: float = 0.0
) -> tuple[Preference, Any]:
    """The provider's objective, and the items of the step (or the data set)."""
    attention = attention_of(language, name)
    goal = Preference(LOSS)
    goal.attention = attention
    if cell.pairs_held is not None:
        return goal, MadeWhenAsked(cell)
    items: list[Any] = []
    for group in step_groups(cell):
        gold, *others = references(cell, language, group)
        moved = [gold + offset, *others]
        items += as_pairs(group, moved) if name == "ours-pairs" else [as_item(group, moved)]
    return goal, items


def ours(name: str) -> Callable[[Run], None]:
    def provider(run: Run) -> None:
        language = language_model(run.cell, run.model)
        goal, items = work(run.cell, language, name)
        settings = TrainConfig(
            steps=run.steps,
            batch_size=run.cell.pairs if name == "ours-pairs" else run.cell.groups,
            learning_rate=LEARNING_RATE,
            warmup=0,
            weight_decay=0,
            clip=1.0,
        )

        def report(step: int, statistics: dict[str, float]) -> None:
            run.stamp({"loss": statistics["loss"]})

        precision = LoopConfig(precision=run.cell.dtype)
        fit(
            language,
            items,
            goal,
            settings,
            seed=0,
            dropout=False,
            report=report,
            loop=precision,
        )

    return provider


def first_steps(cell: Cell, model: Any, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Loss and gradient norm of the step's pairs, by each of `names` (ours) and by plain PyTorch.

    Plain takes one pair after another, each completion alone and unpadded: nothing in it can go
    wrong in the way packing can.
    """
    language = language_model(cell, model)
    parameters = [p for p in language.model.parameters() if p.requires_grad]
    found: dict[str, dict[str, float]] = {}

    def note(name: str, loss: float) -> None:
        squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
        found[name] = {
            "loss": loss,
            "grad_norm": float(torch.stack(squares).sum().sqrt()),
        }
        language.model.zero_grad(set_to_none=True)

    for name in names:
        try:
            goal, items = work(cell, language, name, GOLD_OFFSET)
        except Unavailable:
            continue  # its row will say why
        assert goal.attention is not None
        with goal.attention.on(language), mixed_precision(cell):
            summed, _ = goal.losses(language, items)
            (summed / goal.normaliser(items)).backward()
        note(name, float(summed.detach()) / goal.normaliser(items))
    for name, per_token in (("plain", GOLD_OFFSET), ("plain, first step", 0.0)):
        total = 0.0
        for prompt, gold, answer in pairs_of(step_groups(cell)):
            a = logprobs_alone(cell, language.model, prompt, gold).sum()
            b = logprobs_alone(cell, language.model, prompt, answer).sum()
            loss = dpo_loss(a, b, a.detach() + per_token * len(gold), b.detach())
            (loss / cell.pairs).backward()
            total += float(loss.detach()) / cell.pairs
        note(name, total)
    return found
