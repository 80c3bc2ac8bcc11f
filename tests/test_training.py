"""A step is the loss that is written down, however its items are split up."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from training_items import alone, preference_pairs, sequences, trained

from spftcore.errors import SpftError
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel
from spftcore.training.batches import WINDOW, passes, sample_batches
from spftcore.training.checkpoints import SAMPLED_SIZES
from spftcore.training.groups import TokenSequence
from spftcore.training.items import TrainingSet
from spftcore.training.objectives import Preference, PreferencePair, Supervised

# -- batches ------------------------------------------------------------------------------------


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


# -- items made when they are drawn ---------------------------------------------------------------


def lazy(items: list[TokenSequence | None], made: list[int]) -> TrainingSet[TokenSequence]:
    """The items as a set that notes which it made."""

    def make(index: int) -> TokenSequence | None:
        made.append(index)
        return items[index]

    return TrainingSet(range(len(items)), make, len, "test")


def test_only_what_is_drawn_is_made_and_once(tiny: LanguageModel) -> None:
    made: list[int] = []
    items = lazy(list(sequences(5_000, 1)), made)
    trained(tiny, items, Supervised(), steps=3, batch_size=4)
    # A window of batches, and the few whose sizes tell this set from another.
    assert len(made) == len(set(made))
    assert WINDOW * 4 <= len(made) <= WINDOW * 4 + SAMPLED_SIZES
    list(sample_batches(items, len, 4, 2 * 5_000 // 4, seed=3))
    assert Counter(made) == Counter(range(5_000))  # two epochs, each item made once


def test_a_set_trains_as_the_list_of_its_items_without_those_that_are_none(
    tiny: LanguageModel,
) -> None:
    items: list[TokenSequence | None] = list(sequences(7, 1))
    items[2] = items[5] = None
    model, reports = trained(tiny, lazy(items, []), Supervised(), steps=6, batch_size=2)
    same, expected = trained(tiny, items, Supervised(), steps=6, batch_size=2)
    assert [r["loss"] for r in reports] == [r["loss"] for r in expected]
    for a, b in zip(model.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(a, b)
    drawn = [s for batch in sample_batches(items, len, 2, 15, seed=1) for s in batch]
    assert Counter(drawn) == Counter({s: 6 for s in items if s is not None})


def test_a_set_of_nothing_but_none_is_an_error(tiny: LanguageModel) -> None:
    with pytest.raises(SpftError, match="all 3 pairs are over the limits"):
        trained(tiny, lazy([None] * 3, []), Supervised())


def test_items_beyond_the_kept_tokens_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spftcore.training.items.KEPT_TOKENS", 5)
    made: list[int] = []
    items = lazy([TokenSequence((1, 2), (3,)), TokenSequence((1, 2), (4,)), None], made)
    for _ in range(2):
        assert [item and item.completion for item in items] == [(3,), (4,), None]
    assert Counter(made) == {0: 1, 1: 2, 2: 1}
