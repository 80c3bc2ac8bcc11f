"""`linear_logprobs` against fp64, its memory bound, its determinism and its refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs, linear_logprobs_reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
TRANSFORMS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "scale": {"scale": 0.0625},
    "softcap": {"scale": 2.0, "softcap": 3.0, "temperature": 0.9},
}


def problem(
    tokens: int, width: int, vocabulary: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden, weight, targets, bias with logits of order 1; every fifth target is confident."""
    torch.manual_seed(seed)
    weight = torch.randn(vocabulary, width, dtype=torch.float64) / math.sqrt(width)
    hidden = torch.randn(tokens, width, dtype=torch.float64)
    targets = torch.randint(vocabulary, (tokens,))
    hidden[::5] += 12 * weight[targets[::5]] / weight[targets[::5]].norm(dim=1, keepdim=True)
    bias = 0.1 * torch.randn(vocabulary, dtype=torch.float64)
    return hidden.to(dtype), weight.to(dtype), targets, bias.to(dtype)


def values_and_gradients(function, tensors, targets, trained, **options) -> list[Tensor]:
    """Log-probs and the gradients of the trained ones among (hidden, weight, bias), as fp64."""
    leaves = [
        None if tensor is None else tensor.clone().requires_grad_(name in trained)
        for name, tensor in zip(("hidden", "weight", "bias"), tensors, strict=True)
    ]
    logprobs = function(leaves[0], leaves[1], targets, leaves[2], **options)
    coefficients = torch.linspace(-1, 1, len(targets), dtype=logprobs.dtype)
    if trained:
        (logprobs * coefficients).sum().backward()
    gradients = [leaf.grad for leaf in leaves if leaf is not None and leaf.requires_grad]
    return [logprobs.detach().double(), *(gradient.double() for gradient in gradients)]


def assert_as_close_to_truth_as_plain_pytorch(
    hidden, weight, targets, bias, trained, chunk_bytes=None, **options
) -> None:
    tensors = (hidden, weight, bias)
    doubles = [None if tensor is None else tensor.double() for tensor in tensors]
    truth = values_and_gradients(linear_logprobs_reference, doubles, targets, trained, **options)
    plain = values_and_gradients(linear_logprobs_reference, tensors, targets, trained, **options)
    ours = values_and_gradients(
        linear_logprobs, tensors, targets, trained, chunk_bytes=chunk_bytes, **options
    )
    # Results in half precision are multiples of their last digit: the largest error is one lucky
    # or unlucky rounding, the root mean square says how close the whole is.
    half = hidden.dtype in (torch.bfloat16, torch.float16)
    for true, theirs, mine in zip(truth, plain, ours, strict=True):
        ours_error, plain_error = (
            error.square().mean().sqrt() if half else error.abs().max()
            for error in (mine - true, theirs - true)
        )
        # The tolerance is for values of order 1: a gradient of 13 has a last digit of 1e-6 in fp32.
        tolerance = TOLERANCE[hidden.dtype] * max(1.0, float(true.abs().max()))
        assert ours_error <= plain_error + tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "trained", [(), ("hidden",), ("weight",), ("hidden", "weight", "bias"), ("hidden", "bias")]
)
@pytest.mark.parametrize("rows_per_chunk", [7, 1000])
def test_no_further_from_fp64_than_plain_pytorch(dtype, transform, trained, rows_per_chunk):
    hidden, weight, targets, bias = problem(31, 47, 123, dtype)
    assert_as_close_to_truth_as_plain_pytorch(
        hidden,
        weight,
        targets,
        bias if "bias" in trained else None,
        trained,
        chunk_bytes=rows_per_chunk * 123 * dtype.itemsize,
        **TRANSFORMS[transform],
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    tokens=st.integers(1, 40),
    width=st.integers(1, 50),
    vocabulary=st.integers(1, 200),
    rows=st.integers(1, 50),
    head_is_trained=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_shape_and_chunking_agrees_with_fp64(
    tokens, width, vocabulary, rows, head_is_trained, seed
):
    hidden, weight, targets, bias = problem(tokens, width, vocabulary, torch.float32, seed)
    assert_as_close_to_truth_as_plain_pytorch(
        hidden,
        weight,
        targets,
        bias,
        ("hidden", "weight", "bias") if head_is_trained else ("hidden",),
        chunk_bytes=rows * vocabulary * 4,
    )


def test_hand_worked_logprobs_and_gradient():
    # Logits (0, ln 3): probabilities 1/4 and 3/4. d log p_0 / d logits = (1 - 1/4, -3/4).
    hidden = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    logprobs = linear_logprobs(hidden, torch.eye(2), torch.tensor([0]))
    assert logprobs.item() == pytest.approx(-math.log(4))
    logprobs.backward()
    assert hidden.grad[0].tolist() == pytest.approx([0.75, -0.75])


@pytest.mark.parametrize("head_is_trained", [False, True])
def test_gradcheck_in_fp64(head_is_trained):
    hidden, weight, targets, bias = problem(6, 4, 9, torch.float64)
    inputs = [hidden.requires_grad_()]
    inputs += [weight.requires_grad_(), bias.requires_grad_()] if head_is_trained else []

    def function(*leaves: Tensor) -> Tensor:
        head = leaves[1:] or (weight, bias)
        return linear_logprobs(
            leaves[0], head[0], targets, head[1], softcap=2.0, temperature=0.8, chunk_bytes=200
        )

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_plus_and_minus_80(dtype):
    # A right and a wrong target: log p = -log(1 + 2 e^-160) = 0 and -160.
    weight = torch.tensor([[80.0], [-80.0], [-80.0]], dtype=dtype)
    hidden = torch.ones(2, 1, dtype=dtype, requires_grad=True)
    logprobs = linear_logprobs(hidden, weight, torch.tensor([0, 1]))
    assert logprobs.tolist() == [0.0, -160.0]
    logprobs.sum().backward()
    assert hidden.grad[:, 0].tolist() == [0.0, -160.0]


@pytest.mark.parametrize("trained", [("hidden",), ("hidden", "weight")])
@pytest.mark.parametrize("chunk_bytes", [3 * 600 * 4, 2**20])
def test_logits_that_grow_along_the_vocabulary(trained, chunk_bytes):
    # Each tile of the vocabulary exceeds all earlier ones by far, up to 80; and no target is the
    # largest, so that exponentials relative to anything but the maximum would overflow.
    torch.manual_seed(0)
    hidden = torch.rand(8, 1) + 0.5
    weight = torch.linspace(-80, 80, 600)[:, None] + 0.1 * torch.randn(600, 1)
    assert_as_close_to_truth_as_plain_pytorch(
        hidden / hidden.max(), weight, torch.randint(300, (8,)), None, trained, chunk_bytes
    )


def test_a_confident_target_keeps_its_digits():
    # log p = -log(1 + e^-20) = -e^-20 + ...: fp32 log_softmax rounds it to 0.
    hidden = torch.tensor([[20.0]], requires_grad=True)
    logprobs = linear_logprobs(hidden, torch.tensor([[1.0], [0.0]]), torch.tensor([0]))
    logprobs.backward()
    assert logprobs.item() == pytest.approx(-math.exp(-20), rel=1e-5)
    assert hidden.grad.item() == pytest.approx(math.exp(-20), rel=1e-5)


@pytest.mark.parametrize("trained", [(), ("hidden",), ("hidden", "weight", "bias")])
@pytest.mark.parametrize("rows_per_chunk", [3, 100])
def test_same_inputs_give_the_same_bits(trained, rows_per_chunk):
    hidden, weight, targets, bias = problem(31, 47, 123, torch.float32)
    runs = [
        values_and_gradients(
            linear_logprobs,
            (hidden, weight, bias),
            targets,
            trained,
            chunk_bytes=rows_per_chunk * 123 * 4,
        )
        for _ in range(2)
    ]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_backward_may_run_twice_on_a_kept_graph():
    hidden, weight, targets, _ = problem(9, 5, 11, torch.float32)
    for trained in ((hidden,), (hidden, weight)):
        for tensor in (hidden, weight):
            tensor.requires_grad_(any(tensor is leaf for leaf in trained))
        loss = linear_logprobs(hidden, weight, targets).sum()
        first = torch.autograd.grad(loss, trained, retain_graph=True)
        second = torch.autograd.grad(loss, trained)
        assert all(torch.equal(*both) for both in zip(first, second, strict=True))


def test_transposed_hidden_and_weight_are_handled():
    hidden, weight, targets, _ = problem(31, 47, 123, torch.float32)
    turned = (hidden.t().contiguous().t(), weight.t().contiguous().t(), None)
    straight = values_and_gradients(
        linear_logprobs, (hidden, weight, None), targets, ("hidden", "weight")
    )
    strided = values_and_gradients(linear_logprobs, turned, targets, ("hidden", "weight"))
    for one, other in zip(straight, strided, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_autocast_casts_hidden_and_head():
    hidden, weight, targets, _ = problem(31, 47, 123, torch.float32)
    hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs = linear_logprobs(hidden, weight, targets)
    logprobs.sum().backward()
    expected = linear_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert torch.equal(logprobs, expected)
    assert hidden.grad.dtype == torch.float32


@pytest.mark.parametrize("rows_per_chunk", [5, 1000])
def test_ignored_rows_are_as_if_they_were_not_there(rows_per_chunk):
    hidden, weight, targets, bias = problem(31, 47, 123, torch.float32)
    ignored = torch.arange(31) % 3 == 1
    hidden[4] = math.nan  # an ignored row may hold anything
    targets[ignored] = -100
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    logprobs = linear_logprobs(
        leaves[0],
        leaves[1],
        targets,
        leaves[2],
        ignore_index=-100,
        chunk_bytes=rows_per_chunk * 123 * 4,
    )
    kept = [hidden[~ignored], weight, bias]
    others = [tensor.double().requires_grad_() for tensor in kept]
    truth = linear_logprobs_reference(others[0], others[1], targets[~ignored], others[2])
    assert not logprobs[ignored].any()
    torch.testing.assert_close(logprobs[~ignored].double(), truth, rtol=1e-6, atol=1e-5)
    got = torch.autograd.grad(logprobs.sum(), leaves)
    expected = torch.autograd.grad(truth.sum(), others)
    assert not got[0][ignored].any()
    torch.testing.assert_close(got[0][~ignored].double(), expected[0], rtol=1e-5, atol=1e-5)
    for mine, true in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-5)


def test_all_rows_may_be_ignored():
    hidden, weight, _, _ = problem(4, 5, 7, torch.float32)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    logprobs = linear_logprobs(*leaves, torch.full((4,), -100), ignore_index=-100)
    logprobs.sum().backward()
    assert not logprobs.any()
    assert not any(leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("trained", [("hidden",), ("hidden", "weight", "bias")])
@pytest.mark.parametrize("rows_per_chunk", [7, 1000])
def test_a_processor_that_multiplies_bf16_itself_uses_it(trained, rows_per_chunk, monkeypatch):
    # This way is taken with AMX or AVX-512 BF16; here only its numbers are tested.
    monkeypatch.setattr("spftcore.kernels.tiles._multiplies", lambda dtype: True)
    hidden, weight, targets, bias = problem(31, 47, 123, torch.bfloat16)
    assert_as_close_to_truth_as_plain_pytorch(
        hidden, weight, targets, bias, trained, chunk_bytes=rows_per_chunk * 123 * 2
    )


def test_no_tokens_give_no_logprobs():
    hidden = torch.zeros(0, 4, requires_grad=True)
    weight = torch.ones(7, 4, requires_grad=True)
    linear_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long)).sum().backward()
    assert hidden.grad.shape == (0, 4)
    assert torch.equal(weight.grad, torch.zeros(7, 4))


def test_a_nan_stays_in_its_row():
    hidden, weight, targets, _ = problem(31, 47, 123, torch.float32)
    hidden[3, 0] = math.nan
    logprobs = linear_logprobs(hidden.requires_grad_(), weight, targets)
    logprobs.sum().backward()
    assert logprobs.isnan().nonzero().tolist() == [[3]]
    assert hidden.grad.isnan().any(dim=1).nonzero().tolist() == [[3]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": torch.tensor([0, 5])}, "outside the vocabulary"),
        ({"targets": torch.tensor([-100, 0])}, "first such is row 0"),
        ({"targets": torch.tensor([-100, 5]), "ignore_index": -100}, "first such is row 1"),
        ({"targets": torch.tensor([0, 1, 2])}, "one target id per row"),
        ({"targets": torch.tensor([0.0, 1.0])}, "int64 or int32"),
        ({"weight": torch.zeros(5, 4)}, "same H"),
        ({"hidden": torch.zeros(1, 2, 3)}, "same H"),
        ({"weight": torch.zeros(5, 3, dtype=torch.bfloat16)}, "Cast one of them"),
        ({"hidden": torch.zeros(2, 3, dtype=torch.int32)}, "give float16"),
        ({"bias": torch.zeros(4)}, "bias has shape"),
        ({"temperature": 0.0}, "must be positive"),
        ({"softcap": -1.0}, "must be positive"),
    ],
)
def test_misuse_is_refused_in_words(change, words):
    arguments = {
        "hidden": torch.zeros(2, 3),
        "weight": torch.zeros(5, 3),
        "targets": torch.tensor([0, 4]),
    }
    with pytest.raises(SpftError, match=words):
        linear_logprobs(**(arguments | change))
