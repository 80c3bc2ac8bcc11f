"""The Triton kernels against fp64, on a GPU or in Triton's interpreter; run by test_kernels_triton.

Triton decides when it is imported whether kernels are interpreted, so this file runs in a process
of its own: `TRITON_INTERPRET=1 pytest tests/interpreted_kernels.py`. The interpreter mis-loads
bf16, which is tested on a GPU only.
"""

import os

import pytest
import torch
from test_kernels_pair_loss import batch, looped_pair_loss
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs, linear_logprobs_reference, logits_triton, pair_loss
from spftcore.kernels.logits import target_logprobs_reference
from spftcore.kernels.logits_triton import target_logprobs_

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-3}


@pytest.fixture(autouse=True)
def everything_takes_the_kernels(monkeypatch):
    """In the interpreter, tensors on the CPU take the way that a GPU's do."""
    for module in ("head", "pairs"):
        monkeypatch.setattr(f"spftcore.kernels.{module}.on_triton", lambda tensor: True)


def truth_and_plain(
    logits: Tensor, targets: Tensor, cap: float | None
) -> list[tuple[Tensor, Tensor]]:
    """(log-probs, d logprob / d logits) in fp64, and in plain PyTorch of the logits' dtype."""
    results = []
    for leaf in (logits.double(), logits.clone()):
        leaf.requires_grad_()
        logprobs = target_logprobs_reference(leaf, targets, cap)
        logprobs.sum().backward()
        results.append((logprobs.detach().double(), leaf.grad.double()))
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cap", [None, 2.5])
@pytest.mark.parametrize("shape", [(7, 123), (2, 1), (2, 4096), (2, 20001)])
@pytest.mark.parametrize("spread", [0.05, 80.0])
def test_target_logprobs_and_gradient(dtype, cap, shape, spread):
    torch.manual_seed(0)
    logits = (torch.randn(shape, device=DEVICE).clamp(-1, 1) * spread).to(dtype)
    targets = torch.randint(shape[1], shape[:1], device=DEVICE)
    logits[0, targets[0]] = 12.0  # a confident target
    (true, true_gradient), (plain, plain_gradient) = truth_and_plain(logits, targets, cap)
    kept = logits.clone()
    forward_only = target_logprobs_(kept, targets, cap, False)
    assert torch.equal(kept, logits)
    ours = target_logprobs_(logits, targets.int(), cap, True)
    assert torch.equal(ours, forward_only)
    tolerance = TOLERANCE[dtype] * max(1.0, spread)  # an exponent's error grows with its argument
    assert (ours - true).abs().max() <= (plain - true).abs().max() + tolerance
    error, plain_error = (g - true_gradient for g in (logits.double(), plain_gradient))
    assert error.abs().max() <= plain_error.abs().max() + TOLERANCE[dtype] * max(1.0, cap or 0)


@pytest.mark.parametrize("launch", logits_triton.CANDIDATES)
def test_every_launch_that_tuning_may_choose_is_right(launch, monkeypatch):
    monkeypatch.setattr(logits_triton, "FIXED", launch)
    torch.manual_seed(0)
    logits = torch.randn(2, 20001, device=DEVICE)
    targets = torch.randint(20001, (2,), device=DEVICE)
    (true, true_gradient), _ = truth_and_plain(logits, targets, None)
    logprobs = target_logprobs_(logits, targets, None, True)
    torch.testing.assert_close(logprobs.double(), true, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.double(), true_gradient, rtol=1e-5, atol=1e-6)


def test_tuning_keeps_the_fastest_for_its_vocabulary_alone(monkeypatch):
    monkeypatch.setattr(logits_triton, "_tuned", {})
    monkeypatch.setattr(logits_triton, "CANDIDATES", logits_triton.CANDIDATES[:3])
    used, launch = [], logits_triton._launch

    def spied(chosen, *arguments):
        used.append(chosen)
        return launch(chosen, *arguments)

    monkeypatch.setattr(logits_triton, "_launch", spied)
    milliseconds = iter([3.0, 1.0, 2.0])
    device = torch.device("cpu") if INTERPRETED else torch.device("cuda", 0)
    fastest = logits_triton.tune(
        5, torch.float32, device, milliseconds=lambda call: next(milliseconds)
    )
    assert fastest == logits_triton.CANDIDATES[1]
    for vocabulary in (5, 6):
        zeros = torch.zeros(1, vocabulary, device=device)
        target_logprobs_(zeros, torch.zeros(1, dtype=torch.long, device=device), None, True)
    assert used == [fastest, logits_triton.FIXED]


def test_an_ignored_target_has_neither_logprob_nor_gradient_whatever_its_row_holds():
    logits = torch.randn(3, 700, device=DEVICE)
    logits[1] = float("nan")
    targets = torch.tensor([3, -100, 5], device=DEVICE)
    (true, true_gradient), _ = truth_and_plain(logits[::2], targets[::2], None)
    logprobs = target_logprobs_(logits, targets, None, True, -100)
    assert logprobs[1] == 0
    assert not logits[1].any()
    torch.testing.assert_close(logprobs[::2].double(), true, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits[::2].double(), true_gradient, rtol=1e-5, atol=1e-6)


def test_logits_whose_rows_are_not_contiguous_are_refused():
    logits = torch.zeros(5, 3, device=DEVICE).t()
    with pytest.raises(SpftError, match="last dimension is contiguous"):
        target_logprobs_(logits, torch.zeros(3, dtype=torch.long, device=DEVICE), None, True)


@pytest.mark.parametrize("trained", ["hidden", "head", "both", "bias"])
@pytest.mark.parametrize("rows_per_chunk", [3, 100])
@pytest.mark.parametrize("ignore_index", [None, -100])
def test_linear_logprobs_on_these_kernels(trained, rows_per_chunk, ignore_index):
    torch.manual_seed(0)
    hidden = torch.randn(7, 47, device=DEVICE, requires_grad=trained in ("hidden", "both"))
    weight = (torch.randn(123, 47, device=DEVICE) / 7).requires_grad_(trained in ("head", "both"))
    bias = torch.randn(123, device=DEVICE).requires_grad_(trained in ("bias", "both"))
    targets = torch.randint(123, (7,), device=DEVICE)
    live = torch.arange(7, device=DEVICE)
    if ignore_index is not None:
        targets[2:4] = ignore_index
        live = live[(targets != ignore_index)]
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf.requires_grad]
    options = {"softcap": 3.0, "temperature": 0.8}
    ours = linear_logprobs(
        hidden,
        weight,
        targets,
        bias,
        chunk_bytes=rows_per_chunk * 123 * 4,
        ignore_index=ignore_index,
        **options,
    )
    doubles = hidden.double()[live], weight.double(), targets[live], bias.double()
    truth = linear_logprobs_reference(*doubles, **options)
    torch.testing.assert_close(ours[live].double(), truth, rtol=1e-6, atol=1e-5)
    upstream = torch.linspace(-1, 1, 7, device=DEVICE)
    got = torch.autograd.grad(ours, leaves, upstream)
    expected = torch.autograd.grad(truth, leaves, upstream.double()[live])
    for mine, true in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, true.to(mine.dtype), rtol=1e-5, atol=1e-6)


def test_a_confident_target_keeps_its_digits():
    # log p = -log(1 + e^-20): fp32 log_softmax rounds it to 0.
    logits = torch.tensor([[20.0, 0.0]], device=DEVICE)
    target = torch.zeros(1, dtype=torch.long, device=DEVICE)
    logprobs = target_logprobs_(logits, target, None, True)
    tiny = 2.0611536e-9
    assert logprobs.item() == pytest.approx(-tiny, rel=1e-5)
    assert logits[0].tolist() == pytest.approx([tiny, -tiny], rel=1e-5)


def test_a_row_beyond_two_to_the_31_elements():
    stride = 2**30 + 7
    try:
        memory = torch.empty(2 * stride + 3, dtype=torch.float16, device=DEVICE)
    except RuntimeError:
        pytest.skip("4 GB of address space are not to be had here")
    logits = memory.as_strided((3, 3), (stride, 1))
    values = torch.tensor([[0.0, 1, 2], [2, 1, 0], [3, -1, 0.5]], dtype=torch.float16)
    logits.copy_(values)
    targets = torch.tensor([0, 1, 2], device=DEVICE)
    logprobs = target_logprobs_(logits, targets, None, True)
    (true, true_gradient), _ = truth_and_plain(values.to(DEVICE), targets, None)
    torch.testing.assert_close(logprobs.double(), true, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.double(), true_gradient, rtol=1e-3, atol=1e-3)


def test_nan_stays_in_its_row_and_an_unknown_target_is_nan():
    logits = torch.zeros(4, 5, device=DEVICE)
    logits[1, 3] = float("nan")
    targets = torch.tensor([0, 0, 7, -100], device=DEVICE)
    logprobs = target_logprobs_(logits, targets, None, True)
    assert logprobs.isnan().tolist() == [False, True, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rewards", ["zero", "one", "graded"])
def test_pair_loss_statistics_and_gradient(dtype, weighted, rewards):
    # Lengths across tile borders, length 1, two rejected per gold, a sequence in no pair, and more
    # pairs than one program holds.
    lengths = [5, 1, 17, 64, 65, 2, 130, 4] * 3
    main, other, borders = batch(lengths)
    main, other = main.to(dtype), other.to(dtype)
    torch.manual_seed(1)
    pairs = 37
    chosen = torch.randint(0, 22, (pairs,))
    rejected = torch.randint(0, 22, (pairs,))
    reward = {"zero": torch.zeros(pairs), "one": torch.ones(pairs), "graded": torch.rand(pairs)}
    scale = reward[rewards]
    weight = torch.rand(pairs) if weighted else None
    lam, nll_weight = 0.4, 0.5 if weighted else 0.0
    true_input = main.double().requires_grad_()
    truth = looped_pair_loss(
        true_input,
        other.double(),
        borders,
        chosen,
        rejected,
        scale,
        torch.ones(pairs) if weight is None else weight,
        lam,
        nll_weight,
    )
    upstream = torch.linspace(-1, 1, pairs)
    (truth * upstream).sum().backward()
    leaf = main.to(DEVICE).requires_grad_()
    on_device = [tensor.to(DEVICE) for tensor in (other, borders, chosen, rejected, scale)]
    ours_weight = None if weight is None else weight.to(DEVICE)
    loss, statistics = pair_loss(leaf, *on_device, ours_weight, lam, nll_weight=nll_weight)
    (loss * upstream.to(DEVICE)).sum().backward()
    torch.testing.assert_close(loss.double().cpu(), truth.detach(), rtol=2e-6, atol=2e-5)
    bounds = (
        {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-3}
    )
    torch.testing.assert_close(leaf.grad.double().cpu(), true_input.grad, **bounds)
    sums = torch.stack([part.sum() for part in main.double().split(lengths)])
    gains = torch.stack([part.sum() for part in (main.double() - other.double()).split(lengths)])
    for got, expected in (
        (statistics.chosen_logprob, sums[chosen]),
        (statistics.rejected_logprob, sums[rejected]),
        (statistics.chosen_gain, gains[chosen]),
        (statistics.rejected_gain, gains[rejected]),
        (statistics.margin, lam * (gains[chosen] - scale * gains[rejected])),
    ):
        torch.testing.assert_close(got.double().cpu(), expected, rtol=2e-6, atol=2e-5)


def test_pair_loss_gives_the_same_bits_twice_and_takes_an_expanded_gradient():
    main, other, borders = batch([3, 70, 5, 1])
    arguments = [
        tensor.to(DEVICE)
        for tensor in (
            other,
            borders.int(),
            torch.tensor([0, 0, 0, 2], dtype=torch.int32),
            torch.tensor([1, 1, 2, 3], dtype=torch.int32),
            torch.tensor([1.0, 0.5, 0.25, 1.0]),
        )
    ]
    gradients = []
    for _ in range(2):
        leaf = main.to(DEVICE).requires_grad_()
        pair_loss(leaf, *arguments, None, 0.5)[0].sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0


def test_a_right_answer_does_not_matter_however_unlikely():
    leaf = torch.tensor([-1.0, -float("inf")], device=DEVICE, requires_grad=True)
    indices = [torch.tensor(value, device=DEVICE) for value in ([0, 1, 2], [0], [1])]
    reference = torch.tensor([-1.0, -2.0], device=DEVICE)
    loss, _ = pair_loss(leaf, reference, *indices, torch.zeros(1, device=DEVICE), None, 1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.6931472)
    assert leaf.grad.tolist() == pytest.approx([-0.5, 0.0])
