"""The optimizer loop: a step does not depend on how it is computed, and a bad one does no harm."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TRAVEL_PAIRS, corpus, tiny_settings
from safetensors.torch import load_file
from training_items import (
    alone,
    copy_of,
    gradients_of_one_step,
    preference_pairs,
    sequences,
    settings,
    trained,
)

from spftcore.errors import SpftError
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel, build_tiny
from spftcore.training import speed
from spftcore.training.batches import passes
from spftcore.training.groups import TokenSequence
from spftcore.training.loop import progress_line, rate
from spftcore.training.objectives import Preference, Supervised

# -- one step, however it is computed -----------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 40])  # one item a pass (8 × 1), and a few (1 × 8 in parts)
@pytest.mark.parametrize("kind", ["supervised", "spft", "exspin"])
def test_one_step_of_16_equals_the_same_step_in_many_passes(
    kind: Any, tokens: int, tiny: LanguageModel, qwen2: LanguageModel
) -> None:
    items: Any
    objective: Any
    if kind == "supervised":
        items, objective = sequences(16, seed=1), Supervised()
    else:
        items, objective = preference_pairs(qwen2, 16, seed=1), Preference(LossConfig(kind, 0.5))
    whole = gradients_of_one_step(tiny, items, objective)
    _, (one,) = trained(tiny, items, objective)
    count = len(list(passes(items, objective.tokens, tokens)))
    assert count > 6
    split = gradients_of_one_step(tiny, items, objective, tokens_per_pass=tokens)
    _, (many,) = trained(tiny, items, objective, loop={"tokens_per_pass": tokens})
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name in ("margin", "share wrong", "ranking accuracy"):
        assert many.get(name) == pytest.approx(one.get(name), abs=1e-5)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the same training leaves alone, as two DDP and as two FSDP2 processes (over gloo).

    The items are of unlike lengths and 40 tokens make a pass, so the processes have unlike numbers
    of passes. The groups are broken off in step 3 and resumed from step 2.
    """
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("training_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(folder)], env=environment, check=True)
    return folder


@pytest.mark.heavy
@pytest.mark.parametrize("group", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", ["supervised", "spft"])
def test_two_processes_of_4_take_the_same_steps_as_one_of_8(
    processes: Path, group: str, case: str
) -> None:
    single, first, second = (processes / f / case for f in ("alone", f"{group}_0", f"{group}_1"))
    curves = [json.loads((folder / "curve.json").read_text()) for folder in (single, first)]
    assert len(curves[0]) == 4
    for ours, theirs in zip(*curves, strict=True):
        for name in {"loss", "margin", "share wrong", "ranking accuracy"} & set(ours):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4, abs=1e-5)
    for name in ("gradients", "weights"):
        tensors = [load_file(f / f"{name}.safetensors") for f in (single, first, second)]
        for key, expected in tensors[0].items():
            torch.testing.assert_close(tensors[1][key], expected, atol=1e-5, rtol=1e-4)
            assert torch.equal(tensors[1][key], tensors[2][key])


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("name", ["tiny", "qwen2"])
def test_recomputed_activations_give_the_same_gradients(
    name: str, dropout: bool, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(name)
    items = sequences(6, seed=1)
    plain, _ = trained(model, items, Supervised(), dropout=dropout)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    watched = copy_of(model)
    # The activation inside a layer runs again in the backward pass.
    mlp = next(m for n, m in watched.model.named_modules() if n.endswith("layers.0.mlp"))
    mlp.register_forward_hook(count)
    before = calls
    again, _ = trained(
        watched, items, Supervised(), dropout=dropout, loop={"gradient_checkpointing": True}
    )
    assert calls - before >= 2
    for a, b in zip(plain.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-7, rtol=1e-5)
    assert not again.model.is_gradient_checkpointing


def test_bfloat16_computes_in_bfloat16_and_keeps_the_weights(tiny: LanguageModel) -> None:
    items = sequences(8, seed=1)
    formats = set()
    watched = copy_of(tiny)
    linear = next(m for m in watched.model.modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_hook(lambda _m, _i, output: formats.add(output.dtype))
    _, (exact,) = trained(tiny, items, Supervised())
    model, (rough,) = trained(watched, items, Supervised(), loop={"precision": "bfloat16"})
    assert torch.bfloat16 in formats
    assert {p.dtype for p in model.model.parameters()} == {torch.float32}
    assert rough["loss"] != exact["loss"]
    # 8 bits of mantissa: 2⁻⁸ a rounding, over two layers.
    assert rough["loss"] == pytest.approx(exact["loss"], rel=0.02)
    # And float32 again in the same process.
    assert trained(tiny, items, Supervised())[1][0]["loss"] == exact["loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny: LanguageModel) -> None:
    items = sequences(12, seed=6)
    first, second, third = (
        trained(tiny, items, Supervised(), seed=seed, steps=4, batch_size=3)[0]
        for seed in (1, 1, 2)
    )
    weights = [
        torch.cat([p.flatten() for p in m.model.parameters()]) for m in (first, second, third)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_dropout_is_on_only_where_it_is_asked_for() -> None:
    model = build_tiny(tiny_settings(dropout=0.5), corpus(), seed=1)
    items = sequences(1, seed=6)
    losses = {}
    for dropout in (False, True):
        copied, (report,) = trained(model, items, Supervised(), dropout=dropout, batch_size=4)
        losses[dropout] = report["loss"]
        assert not copied.model.training  # left ready for answering
    model.model.eval()
    exact = -torch.cat([alone(model, item) for item in items]).mean()
    assert losses[False] == pytest.approx(float(exact), abs=1e-5)
    assert losses[True] != pytest.approx(float(exact), abs=1e-5)


def test_the_rate_rises_over_the_warmup_and_falls_to_the_last_step(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    trained(tiny, sequences(4, 1), Supervised(), steps=10, warmup=0.4, learning_rate=1e-3)
    # Four steps up to the peak, then linear to 0, which step 11 would have.
    expected = [0.25, 0.5, 0.75, 1.0, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == pytest.approx([1e-3 * share for share in expected])


def test_schedules_after_the_warmup_by_hand() -> None:
    # 2 of 6 steps of warm-up; then the share of the way from the peak to the end: 0, ¼, ½, ¾.
    def rates(schedule: str) -> list[float]:
        chosen = settings(steps=6, warmup=1 / 3, schedule=schedule)
        return [rate(chosen, step) for step in range(6)]

    assert rates("constant") == [0.5, 1, 1, 1, 1, 1]
    assert rates("linear") == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    half = math.sqrt(0.5)  # cos 45°
    assert rates("cosine") == pytest.approx([0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2])


def test_a_memorisable_set_is_memorised(tiny: LanguageModel) -> None:
    tokenizer = tiny.tokenizer
    items = [
        TokenSequence(
            tuple(tokenizer(question)["input_ids"]),
            (*tokenizer(sql)["input_ids"], tokenizer.eos_token_id),
        )
        for question, sql in TRAVEL_PAIRS
    ]
    model, reports = trained(tiny, items, Supervised(), steps=100, batch_size=6, learning_rate=1e-2)
    assert [report["step"] for report in reports] == list(range(1, 101))
    assert reports[0]["loss"] > 4  # about log of the vocabulary
    assert reports[-1]["loss"] < 0.1
    assert -torch.cat([alone(model, item) for item in items]).mean() < 0.1


def test_self_play_raises_the_gold_above_a_wrong_answer(tiny: LanguageModel) -> None:
    tiny.model.eval()
    pairs = preference_pairs(tiny, 4, seed=8)
    _, reports = trained(
        tiny, pairs, Preference(LossConfig("spft", 1.0)), steps=8, batch_size=4, warmup=0.1
    )
    assert reports[0]["margin"] == pytest.approx(0.0, abs=1e-4)
    assert reports[-1]["margin"] > 0.5
    assert reports[-1]["loss"] < reports[0]["loss"]
    assert reports[-1]["ranking accuracy"] == 1.0


def test_frozen_parameters_stay_as_they_are(tiny: LanguageModel) -> None:
    embedding = tiny.model.get_input_embeddings().weight.requires_grad_(False)
    before = embedding.clone()
    model, _ = trained(tiny, sequences(4, 1), Supervised(), steps=3)
    assert torch.equal(model.model.get_input_embeddings().weight, before)


# -- what a step reports -------------------------------------------------------------------------


def test_the_progress_line_says_what_is_known() -> None:
    statistics = {"loss": 0.5, "tokens/s": 12345.6, "peak memory GB": 3.21}
    assert progress_line(statistics) == "loss 0.500, 12,346 tokens/s, 3.2 GB"
    statistics |= {"margin": 1.0, "ranking accuracy": 0.96, "model FLOP utilisation": 0.41}
    assert (
        progress_line(statistics)
        == "loss 0.500, margin +1.00, ranked right 96%, 12,346 tokens/s, 41% of peak, 3.2 GB"
    )


def test_utilisation_is_6_operations_a_trained_weight_and_4_a_frozen_one(
    qwen2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert speed.utilisation(qwen2, 1e6, "bfloat16") is None  # nobody knows a CPU's peak
    monkeypatch.setattr(LanguageModel, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    # Two layers of width 32: attention 32·(32 + 16 + 16) + 64 biases + 32·32, an MLP of 3·32·48,
    # two norms of 32; and the last norm.
    weights = 2 * (32 * 64 + 64 + 32 * 32 + 3 * 32 * 48 + 64) + 32
    expected = 6 * weights * 1e6 / 989e12
    assert speed.utilisation(qwen2, 1e6, "bfloat16") == pytest.approx(expected)
    assert speed.utilisation(qwen2, 1e6, "float32") is None
    for parameter in qwen2.model.parameters():
        parameter.requires_grad_(False)
    assert speed.utilisation(qwen2, 1e6, "bfloat16") == pytest.approx(expected * 4 / 6)


# -- mistakes -----------------------------------------------------------------------------------


def test_nothing_to_train_on_is_an_error(tiny: LanguageModel) -> None:
    with pytest.raises(SpftError, match="nothing to train on"):
        trained(tiny, [], Supervised())


class Poisoned(Supervised):
    """Gives NaN, or an infinite loss with finite gradients, in the passes it is told to."""

    def __init__(self, bad: set[int], poison: str = "nan") -> None:
        super().__init__()
        self.bad, self.poison, self.step = bad, float(poison), 0

    def losses(self, model: Any, items: Any) -> Any:
        self.step += torch.is_grad_enabled()  # not where bad items are looked for
        summed, statistics = super().losses(model, items)
        if self.step in self.bad:
            summed = summed * self.poison if math.isnan(self.poison) else summed + self.poison
        return summed, statistics


@pytest.mark.parametrize("poison", ["nan", "inf"])
def test_a_step_without_a_finite_loss_changes_nothing_and_five_end_the_stage(
    tiny: LanguageModel, poison: str
) -> None:
    items = sequences(2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch's schedulers warn of a first step left out
        model, _ = trained(tiny, items, Poisoned({1}, poison), steps=1, batch_size=2)
    for before, after in zip(tiny.model.parameters(), model.model.parameters(), strict=True):
        assert torch.equal(before, after)
    # Four in a row are borne, and the count begins anew after a good step.
    model, reports = trained(tiny, items, Poisoned({2, 3, 4, 5, 7}, poison), steps=8, batch_size=2)
    assert Counter(math.isfinite(r["loss"]) for r in reports) == {False: 5, True: 3}
    assert [r["step"] for r in reports if "skipped" in r] == [2, 3, 4, 5, 7]
    assert all(torch.isfinite(p).all() for p in model.model.parameters())
    with pytest.raises(SpftError, match=r"5 steps in a row \(at step 6\)"):
        trained(tiny, items, Poisoned({2, 3, 4, 5, 6}, poison), steps=8, batch_size=2)


class Bad(Supervised):
    """Gives NaN for items that begin with token 7."""

    def losses(self, model: Any, items: Any) -> Any:
        summed, statistics = super().losses(model, items)
        if any(item.prompt[0] == 7 for item in items):
            summed = summed * float("nan")
        return summed, statistics


def test_a_bad_step_names_the_items_that_are_bad_by_themselves(
    tiny: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    items = [replace(s, id=f"pair_{i}") for i, s in enumerate(sequences(8, 1))]
    items[3] = TokenSequence((7, 8), (9,), "pair_3")
    trained(tiny, items, Bad(), batch_size=8)
    message = "The loss or the gradient of step 1 is not finite, on {}. The step is skipped."
    assert caplog.messages == [message.format("pair_3")]
    caplog.clear()
    nameless = [TokenSequence(item.prompt, item.completion) for item in items]
    trained(tiny, nameless, Bad(), batch_size=8)
    assert caplog.messages == [message.format("an item without id")]
