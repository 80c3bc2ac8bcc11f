"""A step is the loss that is written down, however its items are split up."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import pytest
import torch
from conftest import TRAVEL_PAIRS
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from spftcore.config import TrainConfig
from spftcore.errors import SpftError
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel
from spftcore.training import loop
from spftcore.training.batches import passes, sample_batches
from spftcore.training.groups import TokenSequence
from spftcore.training.loop import fit
from spftcore.training.objectives import Preference, PreferencePair, Supervised

# -- batches ------------------------------------------------------------------------------------


def alone(model: LanguageModel, sequence: TokenSequence) -> torch.Tensor:
    """fp64 log-probs of one completion from the model's own logits, without padding."""
    ids = [*sequence.prompt, *sequence.completion]
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0].double()
    scores = logits.log_softmax(-1)
    start = len(sequence.prompt)
    return torch.stack([scores[i - 1, ids[i]] for i in range(start, len(ids))])


def sequences(count: int, seed: int, vocabulary: int = 300) -> list[TokenSequence]:
    """Random sequences of random lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(2, vocabulary, (length,), generator=generator).tolist())

    return [TokenSequence(draw(1, 20), draw(1, 12)) for _ in range(count)]


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), budget=st.integers(1, 300))
@hypothesis_settings(max_examples=80, deadline=None)
def test_passes_hold_every_item_once_and_keep_the_budget(lengths: list[int], budget: int) -> None:
    items = list(enumerate(lengths))
    groups = list(passes(items, lambda item: item[1], budget))
    assert sorted(item for group in groups for item in group) == items
    for group in groups:
        padded = len(group) * max(length for _, length in group)
        assert padded <= budget or len(group) == 1


def test_items_of_like_length_share_a_pass() -> None:
    groups = list(passes([1, 50, 1, 50, 1], lambda length: length, 100))
    assert groups == [[1, 1, 1], [50, 50]]


@given(batches=st.integers(1, 40), batch_size=st.integers(1, 12), seed=st.integers(0, 99))
@hypothesis_settings(max_examples=60, deadline=None)
def test_every_item_is_drawn_equally_often(batches: int, batch_size: int, seed: int) -> None:
    # 16 epochs of `batches` batches each.
    items = list(range(batches * batch_size))
    drawn = list(sample_batches(items, lambda item: item, batch_size, 16 * batches, seed))
    assert [len(batch) for batch in drawn] == [batch_size] * 16 * batches
    assert set(Counter(item for batch in drawn for item in batch).values()) == {16}
    assert drawn == list(sample_batches(items, lambda item: item, batch_size, 16 * batches, seed))


@pytest.mark.parametrize(("count", "batch_size"), [(6, 6), (20, 16), (30, 4)])
def test_a_batch_is_not_filled_with_copies_of_one_item(count: int, batch_size: int) -> None:
    # Twice at most, where one epoch ends and the next begins.
    for batch in sample_batches(list(range(count)), lambda item: item, batch_size, 32, seed=1):
        assert max(Counter(batch).values()) <= 2


def test_items_of_like_length_meet_in_a_batch_and_batches_come_in_no_order() -> None:
    lengths = list(range(64))
    drawn = list(sample_batches(lengths, lambda length: length, 4, 16, seed=1))
    assert all(max(batch) - min(batch) == 3 for batch in drawn)
    shortest = [min(batch) for batch in drawn]
    assert shortest not in (sorted(shortest), sorted(shortest, reverse=True))


def test_another_seed_gives_another_order() -> None:
    first, second = (
        list(sample_batches(range(50), lambda item: item, 8, 5, seed)) for seed in (1, 2)
    )
    assert first != second


# -- objectives ---------------------------------------------------------------------------------


def test_the_supervised_loss_is_the_mean_nll_of_completion_tokens(tiny: LanguageModel) -> None:
    tiny.model.eval()
    items = sequences(5, seed=9)
    objective = Supervised()
    summed, _ = objective.losses(tiny, items)
    expected = -torch.cat([alone(tiny, item) for item in items])
    loss = float(summed.detach()) / objective.normaliser(items)
    assert loss == pytest.approx(float(expected.mean()), abs=1e-5)


def preference_pairs(opponent: LanguageModel, count: int, seed: int) -> list[PreferencePair]:
    """Pairs whose references are an opponent's log-probs; rewards 1, 0, 1, 0, …"""
    golds, others = sequences(count, seed), sequences(count, seed + 1)
    pairs = []
    for number, (gold, other) in enumerate(zip(golds, others, strict=True)):
        answer = TokenSequence(gold.prompt, other.completion)
        references = [alone(opponent, item).float() for item in (gold, answer)]
        pairs.append(PreferencePair(gold, answer, *references, float(number % 2 == 0)))
    return pairs


@pytest.mark.parametrize("kind", ["spft", "spin", "exspin", "dpo"])
def test_the_preference_loss_is_equation_3_in_fp64(
    kind: Any, tiny: LanguageModel, qwen2: LanguageModel
) -> None:
    # Eq. 3: mean of log(1 + exp(-m)), m = lam [(a - a_ref) - w (b - b_ref)]; w = R for SPFT-SQL
    # and 1 otherwise; ExSPIN and DPO keep the pairs with R = 1 and divide by their number.
    tiny.model.eval()
    pairs = preference_pairs(qwen2, 6, seed=5)
    lam, nll_weight = 0.3, 0.2
    terms = []
    for pair in pairs:
        if kind in ("exspin", "dpo") and pair.reward == 0:
            continue
        gold = alone(tiny, pair.gold)
        gain = float(gold.sum() - pair.gold_reference.double().sum())
        other = float(alone(tiny, pair.answer).sum() - pair.answer_reference.double().sum())
        scale = pair.reward if kind == "spft" else 1.0
        margin = lam * (gain - scale * other)
        terms.append(math.log1p(math.exp(-margin)) - nll_weight * float(gold.mean()))
    objective = Preference(LossConfig(kind, lam, nll_weight))
    summed, statistics = objective.losses(tiny, pairs)
    loss = float(summed.detach()) / objective.normaliser(pairs)
    assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert (statistics["pairs"], statistics["wrong"]) == (6.0, 3.0)


def test_against_itself_every_margin_is_zero_and_the_loss_log_2(tiny: LanguageModel) -> None:
    tiny.model.eval()
    pairs = preference_pairs(tiny, 4, seed=2)
    summed, statistics = Preference(LossConfig("spft", 1.0)).losses(tiny, pairs)
    assert float(summed.detach()) / 4 == pytest.approx(math.log(2), abs=1e-4)
    assert statistics["margin"] == pytest.approx(0.0, abs=1e-4)


def test_statistics_count_wrong_answers_and_how_many_are_ranked_below_the_gold(
    tiny: LanguageModel,
) -> None:
    tiny.model.eval()
    first, second, third, fourth = preference_pairs(tiny, 4, seed=2)  # wrong: first and third

    def moved(pair: PreferencePair, gold: float) -> PreferencePair:
        """With a reference that puts the main model `gold` above the opponent on the gold."""
        reference = pair.gold_reference - gold / len(pair.gold_reference)
        return PreferencePair(pair.gold, pair.answer, reference, pair.answer_reference, pair.reward)

    pairs = [moved(first, 1.0), moved(second, 1.0), moved(third, -1.0), moved(fourth, -1.0)]
    _, statistics = Preference(LossConfig("spft", 1.0)).losses(tiny, pairs)
    assert (statistics["wrong"], statistics["ranked"]) == (2.0, 1.0)
    assert statistics["margin"] == pytest.approx(0.0, abs=1e-4)


def test_right_answers_are_not_pushed_down_by_spft(tiny: LanguageModel) -> None:
    # R = 0: no gradient reaches the answer, so the step is that of the gold alone.
    tiny.model.eval()
    (pair,) = preference_pairs(tiny, 1, seed=4)
    other = TokenSequence(pair.gold.prompt, (9, 9, 9))
    gradients = []
    for answer in (pair.answer, other):
        tiny.model.zero_grad()
        item = PreferencePair(
            pair.gold, answer, pair.gold_reference, torch.zeros(len(answer.completion)), 0.0
        )
        summed, _ = Preference(LossConfig("spft", 1.0)).losses(tiny, [item])
        summed.backward()
        gradients.append([p.grad.clone() for p in tiny.model.parameters()])
    for one, another in zip(*gradients, strict=True):
        torch.testing.assert_close(one, another, atol=1e-6, rtol=1e-4)


# -- the loop -----------------------------------------------------------------------------------


def settings(**changed: Any) -> TrainConfig:
    values = {"steps": 1, "batch_size": 16, "learning_rate": 1e-3, "warmup": 0.0}
    return TrainConfig.model_validate(values | changed)


def trained(
    model: LanguageModel, items: Any, objective: Any, seed: int = 3, **changed: Any
) -> tuple[LanguageModel, list[dict[str, float]]]:
    copied = LanguageModel(copy.deepcopy(model.model), model.tokenizer)
    reports: list[dict[str, float]] = []
    fit(
        copied,
        items,
        objective,
        settings(**changed),
        seed=seed,
        dropout=False,
        report=lambda step, statistics: reports.append({"step": step, **statistics}),
    )
    return copied, reports


def gradients_of_one_step(model: LanguageModel, items: Any, objective: Any) -> list[torch.Tensor]:
    """The clipped gradients that the optimizer sees, with a clip too large to act."""
    copied = LanguageModel(copy.deepcopy(model.model), model.tokenizer)
    fit(copied, items, objective, settings(clip=1e9), seed=3, dropout=False, report=lambda *_: None)
    return [p.grad for p in copied.model.parameters()]


@pytest.mark.parametrize("kind", ["supervised", "spft", "exspin"])
def test_one_step_of_16_equals_the_same_step_in_many_passes(
    kind: Any, tiny: LanguageModel, qwen2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    items: Any
    objective: Any
    if kind == "supervised":
        items, objective = sequences(16, seed=1), Supervised()
    else:
        items, objective = preference_pairs(qwen2, 16, seed=1), Preference(LossConfig(kind, 0.5))
    whole = gradients_of_one_step(tiny, items, objective)
    _, (one,) = trained(tiny, items, objective)
    monkeypatch.setattr(loop, "TOKENS_PER_PASS", 40)
    count = len(list(passes(items, objective.tokens, loop.TOKENS_PER_PASS)))
    assert count > 6
    split = gradients_of_one_step(tiny, items, objective)
    _, (many,) = trained(tiny, items, objective)
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name in ("margin", "share wrong", "ranking accuracy"):
        assert many.get(name) == pytest.approx(one.get(name), abs=1e-5)


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
    from conftest import corpus, tiny_settings

    from spftcore.models import build_tiny

    model = build_tiny(tiny_settings(dropout=0.5), corpus(), seed=1)
    items = sequences(1, seed=6)
    losses = {}
    for dropout in (False, True):
        copied = LanguageModel(copy.deepcopy(model.model), model.tokenizer)
        seen: list[float] = []
        fit(
            copied,
            items,
            Supervised(),
            settings(batch_size=4),
            seed=1,
            dropout=dropout,
            report=lambda _, s, seen=seen: seen.append(s["loss"]),  # type: ignore[misc]
        )
        losses[dropout] = seen[0]
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


# -- mistakes -----------------------------------------------------------------------------------


def test_nothing_to_train_on_is_an_error(tiny: LanguageModel) -> None:
    with pytest.raises(SpftError, match="nothing to train on"):
        trained(tiny, [], Supervised())


def test_a_step_without_a_finite_gradient_changes_nothing_and_five_end_the_stage(
    tiny: LanguageModel,
) -> None:
    class Poisoned(Supervised):
        """Gives NaN in the steps it is told to."""

        def __init__(self, bad: set[int]) -> None:
            self.bad, self.step = bad, 0

        def losses(self, model: Any, items: Any) -> Any:
            self.step += 1
            summed, statistics = super().losses(model, items)
            return (summed * float("nan") if self.step in self.bad else summed), statistics

    items = sequences(2, 1)
    model, _ = trained(tiny, items, Poisoned({1}), steps=1, batch_size=2)
    for before, after in zip(tiny.model.parameters(), model.model.parameters(), strict=True):
        assert torch.equal(before, after)
    # Four in a row are borne, and the count begins anew after a good step.
    model, reports = trained(tiny, items, Poisoned({2, 3, 4, 5, 7}), steps=8, batch_size=2)
    assert Counter(math.isnan(r["loss"]) for r in reports) == {True: 5, False: 3}
    assert all(torch.isfinite(p).all() for p in model.model.parameters())
    with pytest.raises(SpftError, match=r"5 steps in a row \(at step 6\)"):
        trained(tiny, items, Poisoned({2, 3, 4, 5, 6}), steps=8, batch_size=2)
