"""`pair_loss` and `sequence_sums` against fp64 and numbers worked by hand; their refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs, pair_loss, pair_loss_reference, sequence_sums


def batch(lengths: list[int], dtype: torch.dtype = torch.float32, seed: int = 0):
    """Main and reference token log-probs of completions of these lengths, and their borders."""
    torch.manual_seed(seed)
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    main = -torch.rand(sum(lengths), dtype=dtype) * 3
    return main, main + 0.3 * torch.randn_like(main), borders


def looped_pair_loss(
    logprobs, reference, borders, chosen, rejected, scale, weight, lam, nll_weight
) -> Tensor:
    """The equations, pair by pair in Python; differentiable."""
    losses = []
    for pair in range(len(chosen)):
        y = slice(borders[chosen[pair]], borders[chosen[pair] + 1])
        y_ = slice(borders[rejected[pair]], borders[rejected[pair] + 1])
        gain = logprobs[y].sum() - reference[y].sum()
        other = logprobs[y_].sum() - reference[y_].sum()
        margin = lam * (gain - scale[pair] * other)
        loss = torch.log1p(torch.exp(-margin.abs())) + torch.clamp(-margin, min=0)
        losses.append(weight[pair] * (loss - nll_weight * logprobs[y].mean()))
    return torch.stack(losses)


@pytest.mark.parametrize("rewards", ["zero", "one", "graded"])
@pytest.mark.parametrize("nll_weight", [0.0, 0.5])
def test_agrees_with_the_equations_in_fp64(rewards, nll_weight):
    # Two rejected answers per gold, segments of length 1, a sequence in no pair, weights.
    lengths = [5, 1, 17, 3, 1, 2, 90, 4]
    chosen, rejected = torch.tensor([0, 0, 3, 6]), torch.tensor([1, 2, 4, 5])
    reward = {
        "zero": torch.zeros(4),
        "one": torch.ones(4),
        "graded": torch.tensor([0.0, 1.0, 0.25, 0.5]),
    }[rewards]
    weight = torch.tensor([1.0, 3.0, 0.0, 0.5])
    main, other, borders = batch(lengths)
    truth_input = main.double().requires_grad_()
    truth = looped_pair_loss(
        truth_input, other.double(), borders, chosen, rejected, reward, weight, 0.4, nll_weight
    )
    truth.sum().backward()
    loss, _ = pair_loss(
        main.requires_grad_(),
        other,
        borders,
        chosen,
        rejected,
        reward,
        weight,
        0.4,
        nll_weight=nll_weight,
    )
    loss.sum().backward()
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(main.grad.double(), truth_input.grad, rtol=1e-6, atol=1e-6)


def test_hand_worked_pair():
    # a = -1 - 2 = -3, a_ref = -4, b = -1, b_ref = -2.5: gains 1 and 1.5.
    # lam = 2, w = 0.5: m = 2 (1 - 0.5 * 1.5) = 0.5, s = 1 / (1 + e^0.5).
    logprobs = torch.tensor([-1.0, -2.0, -1.0], requires_grad=True)
    loss, statistics = pair_loss(
        logprobs,
        torch.tensor([-2.0, -2.0, -2.5]),
        torch.tensor([0, 2, 3]),
        torch.tensor([0]),
        torch.tensor([1]),
        torch.tensor([0.5]),
        None,
        2.0,
    )
    assert statistics.margin.tolist() == [0.5]
    assert statistics.chosen_logprob.tolist() == [-3.0]
    assert statistics.rejected_logprob.tolist() == [-1.0]
    assert statistics.chosen_gain.tolist() == [1.0]
    assert statistics.rejected_gain.tolist() == [1.5]
    assert statistics.ranked_right.tolist() == [False]
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5)))
    loss.sum().backward()
    s = 1 / (1 + math.exp(0.5))
    assert logprobs.grad.tolist() == pytest.approx([-2 * s, -2 * s, 2 * 0.5 * s])


def test_gradcheck_in_fp64():
    main, other, borders = batch([3, 1, 2, 4], torch.float64)
    chosen, rejected = torch.tensor([0, 0, 3]), torch.tensor([1, 2, 2])
    reward = torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)

    def function(logprobs: Tensor) -> Tensor:
        return pair_loss(
            logprobs, other, borders, chosen, rejected, reward, weight, 0.7, nll_weight=0.2
        )[0]

    assert torch.autograd.gradcheck(function, [main.requires_grad_()])


@pytest.mark.parametrize("gain", [-1e4, -80.0, 80.0, 1e4])
def test_a_saturated_margin_neither_overflows_nor_loses_its_gradient(gain):
    logprobs = torch.tensor([gain, 0.0], requires_grad=True)
    zeros = torch.zeros(2)
    loss, _ = pair_loss(
        logprobs,
        zeros,
        torch.tensor([0, 1, 2]),
        torch.tensor([0]),
        torch.tensor([1]),
        torch.ones(1),
        None,
        1.0,
    )
    loss.sum().backward()
    truth = torch.nn.functional.softplus(torch.tensor(-gain, dtype=torch.float64), threshold=1e9)
    truth = -gain if gain < -100 else truth.item()
    assert loss.item() == pytest.approx(truth, rel=1e-6)
    sigmoid = 0.0 if gain > 1e3 else 1 / (1 + math.exp(min(gain, 700)))
    assert logprobs.grad.tolist() == pytest.approx([-sigmoid, sigmoid], rel=1e-5)


def test_a_right_answer_does_not_matter_however_unlikely():
    logprobs = torch.tensor([-1.0, -math.inf], requires_grad=True)
    loss, _ = pair_loss(
        logprobs,
        torch.tensor([-1.0, -2.0]),
        torch.tensor([0, 1, 2]),
        torch.tensor([0]),
        torch.tensor([1]),
        torch.zeros(1),
        None,
        1.0,
    )
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.0])


def test_a_nan_is_named_by_its_pairs():
    main, other, borders = batch([2, 3, 4, 1])
    main[3] = math.nan  # in completion 1
    _, statistics = pair_loss(
        main, other, borders, torch.tensor([0, 2]), torch.tensor([1, 3]), torch.ones(2), None, 1.0
    )
    assert statistics.finite.tolist() == [False, True]


def test_a_nan_in_an_answer_that_the_loss_leaves_out_is_named_too():
    main, other, borders = batch([2, 3, 4, 1])
    main[3] = math.nan  # in completion 1, a right answer: R = 0
    loss, statistics = pair_loss(
        main, other, borders, torch.tensor([0, 2]), torch.tensor([1, 3]), torch.zeros(2), None, 1.0
    )
    assert loss.isfinite().tolist() == [True, True]
    assert statistics.finite.tolist() == [False, True]


def test_half_precision_is_summed_in_fp32():
    # 4,096 tokens of -1 - 2^-8: fp16 would stop counting at 2,048.
    tokens = 4096
    logprobs = torch.full((tokens,), -(1 + 2**-8), dtype=torch.float16)
    sums = sequence_sums(logprobs, torch.tensor([0, tokens]))
    assert sums.tolist() == [-(1 + 2**-8) * tokens]


def test_sequence_sums_do_not_carry_errors_from_one_completion_to_the_next():
    logprobs = torch.cat([torch.full((5000,), -1000.1), torch.tensor([-0.001])])
    sums = sequence_sums(logprobs, torch.tensor([0, 5000, 5001]))
    assert sums[1] == logprobs[-1]


def test_the_loss_of_the_whole_is_the_loss_of_its_parts():
    main, other, borders = batch([3, 4, 5, 6])
    arguments = (torch.ones(1), None, 0.3)
    whole, _ = pair_loss(
        main,
        other,
        borders,
        torch.tensor([0, 2]),
        torch.tensor([1, 3]),
        torch.ones(2),
        None,
        0.3,
    )
    first, last = torch.tensor([0]), torch.tensor([1])
    one, _ = pair_loss(main[:7], other[:7], borders[:3], first, last, *arguments)
    two, _ = pair_loss(main[7:], other[7:], borders[2:] - 7, first, last, *arguments)
    torch.testing.assert_close(whole, torch.cat([one, two]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cu_seqlens": torch.tensor([0, 2, 2, 4])}, "Completion 1 is empty"),
        ({"cu_seqlens": torch.tensor([0, 2, 3])}, "end at the number of tokens"),
        ({"cu_seqlens": torch.tensor([1, 2, 4])}, "start at 0"),
        ({"cu_seqlens": torch.tensor([0.0, 4.0])}, "int64 or int32"),
        ({"logprobs": torch.zeros(4, dtype=torch.long)}, "one floating-point value"),
        ({"reference": torch.zeros(3)}, "score the same tokens"),
        ({"reference": torch.zeros(4, dtype=torch.long)}, "floating point"),
        ({"reference": torch.zeros(4, requires_grad=True)}, "detach"),
        ({"chosen": torch.tensor([0, 0])}, "chosen and rejected must both be"),
        ({"rejected": torch.tensor([2])}, "rejected names completions 2 to 2"),
        ({"reward": torch.tensor([1.5])}, "must lie in"),
        ({"reward": torch.tensor([math.nan])}, "must lie in"),
        ({"reward": torch.tensor([1])}, "reward has shape"),
        ({"weight": torch.tensor([-1.0])}, "weight reaches from -1"),
        ({"weight": torch.ones(2)}, "weight has shape"),
        ({"weight": torch.ones(1, requires_grad=True)}, "weight requires a gradient"),
        ({"cu_seqlens": torch.tensor([0, 2, 4], device="meta")}, "cu_seqlens is on meta"),
    ],
)
def test_misuse_is_refused_in_words(change, words):
    arguments = {
        "logprobs": torch.zeros(4),
        "reference": torch.zeros(4),
        "cu_seqlens": torch.tensor([0, 2, 4]),
        "chosen": torch.tensor([0]),
        "rejected": torch.tensor([1]),
        "reward": torch.ones(1),
        "weight": None,
        "lam": 1.0,
    }
    with pytest.raises(SpftError, match=words):
        pair_loss(**(arguments | change))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=8),
    pairs=st.integers(1, 12),
    rewards=st.sampled_from(["zero", "one", "graded"]),
    nll_weight=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 2**16),
)
def test_any_batch_agrees_with_the_equations_in_fp64(lengths, pairs, rewards, nll_weight, seed):
    main, other, borders = batch(lengths, torch.float64, seed)
    chosen, rejected = torch.randint(len(lengths), (2, pairs)).unbind()
    scale = {"zero": torch.zeros, "one": torch.ones, "graded": torch.rand}[rewards](pairs).double()
    weight = torch.rand(pairs).double().round(decimals=1)  # some pairs are dropped
    arguments = (other, borders, chosen, rejected, scale, weight, 0.4)
    results = []
    for function, option in ((pair_loss, {"nll_weight": nll_weight}), (looped_pair_loss, {})):
        leaf = main.clone().requires_grad_()
        result = function(leaf, *arguments, *([] if option else [nll_weight]), **option)
        loss = result[0] if isinstance(result, tuple) else result
        (gradient,) = torch.autograd.grad(loss, leaf, torch.linspace(-1, 1, pairs).double())
        results.append((loss.detach(), gradient))
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


def test_the_gradient_by_hand_is_that_of_autograd():
    main, other, borders = batch([5, 1, 17, 3])
    chosen, rejected = torch.tensor([0, 0, 2]), torch.tensor([1, 3, 3])
    reward, weight = torch.tensor([1.0, 0.25, 0.0]), torch.tensor([1.0, 2.0, 0.5])
    gradients = []
    for function in (pair_loss, pair_loss_reference):
        leaf = main.clone().requires_grad_()
        loss, _ = function(
            leaf, other, borders, chosen, rejected, reward, weight, 0.4, nll_weight=0.3
        )
        gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)


def test_a_dropped_pair_neither_costs_nor_pulls_however_unlikely_its_answer():
    logprobs = torch.tensor([-1.0, -math.inf], requires_grad=True)
    loss, _ = pair_loss(
        logprobs,
        torch.tensor([-1.0, -2.0]),
        torch.tensor([0, 1, 2]),
        torch.tensor([1]),
        torch.tensor([0]),
        torch.ones(1),
        torch.zeros(1),
        1.0,
    )
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert logprobs.grad.tolist() == [0.0, 0.0]


def test_same_inputs_give_the_same_bits():
    main, other, borders = batch([7, 1, 30, 12])
    arguments = (
        other,
        borders,
        torch.tensor([0, 0, 2, 0]),
        torch.tensor([1, 3, 3, 1]),
        torch.rand(4),
        None,
        0.4,
    )
    runs = []
    for _ in range(2):
        leaf = main.clone().requires_grad_()
        loss, statistics = pair_loss(leaf, *arguments)
        runs.append((loss, statistics.margin, *torch.autograd.grad(loss.sum(), leaf)))
    assert all(torch.equal(*both) for both in zip(*runs, strict=True))


def test_a_nan_hidden_state_is_named_by_its_pairs():
    # Completions of 2, 3, 1 and 2 tokens; token 3 lies in completion 1, of pair 0 alone.
    torch.manual_seed(0)
    hidden, weight = torch.randn(8, 5), torch.randn(11, 5)
    hidden[3, 2] = math.nan
    logprobs = linear_logprobs(hidden, weight, torch.randint(11, (8,)))
    _, statistics = pair_loss(
        logprobs,
        torch.zeros(8),
        torch.tensor([0, 2, 5, 6, 8]),
        torch.tensor([0, 2]),
        torch.tensor([1, 3]),
        torch.ones(2),
        None,
        1.0,
    )
    assert statistics.finite.tolist() == [False, True]
