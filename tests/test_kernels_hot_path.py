"""What the kernels never do on the way: hold all logits, project in vain, wait for the device."""

from typing import ClassVar

import pytest
import torch
from test_kernels_linear_logprobs import problem, values_and_gradients
from test_kernels_pair_loss import batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from spftcore.kernels import checks, head, linear_logprobs, pair_loss, pairs
from spftcore.kernels.logits import target_logprobs_reference


class InsideOperators(TorchDispatchMode):
    """Sees every PyTorch operation, those inside the operators of `spftcore` included."""

    OPERATORS: ClassVar = {
        "spftcore::linear_logprobs": head.forward_pass,
        "spftcore::linear_logprobs_head_gradient": head.head_gradient,
        "spftcore::pair_loss": pairs.pair_forward,
        "spftcore::pair_loss_gradient": pairs.pair_gradient,
    }

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operator = self.OPERATORS.get(function._schema.name)
        if operator is not None:
            with self:
                return operator(*args, **kwargs)
        result = function(*args, **kwargs)
        self.saw(function._schema.name, args, kwargs, result)
        return result

    def saw(self, name: str, args, kwargs, result) -> None:
        raise NotImplementedError


class LargestAllocation(InsideOperators):
    """Records the largest number of elements that any operation's result holds."""

    elements = 0

    def saw(self, name, args, kwargs, result):
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                stored = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, stored)


class Products(InsideOperators):
    """Records the multiply-adds of matrix products."""

    operations = 0

    def saw(self, name, args, kwargs, result):
        if name in ("aten::mm", "aten::addmm"):
            left, right = args[-2:]
            self.operations += left.shape[0] * left.shape[1] * right.shape[1]


class NoWaiting(InsideOperators):
    """Refuses whatever would make the host wait for a GPU."""

    WAITS = (
        "aten::_local_scalar_dense",  # .item(), bool(), int(), float()
        "aten::item",
        "aten::is_nonzero",
        "aten::nonzero",
        "aten::equal",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::segment_reduce",  # reads its lengths
    )

    seen = 0

    def saw(self, name, args, kwargs, result):
        self.seen += 1
        assert name not in self.WAITS, f"{name} waits for the device"
        if name in ("aten::index", "aten::index_put_", "aten::index_put"):
            assert not any(index is not None and index.dtype == torch.bool for index in args[1])
        if name == "aten::repeat_interleave":
            assert kwargs.get("output_size") is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [(), ("hidden",), ("hidden", "weight")])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_no_tensor_of_all_tokens_times_vocabulary_is_made(dtype, trained, softcap):
    tokens, width, vocabulary, rows = 64, 8, 1000, 5
    hidden, weight, targets, _ = problem(tokens, width, vocabulary, dtype)
    with LargestAllocation() as largest:
        values_and_gradients(
            linear_logprobs,
            (hidden, weight, None),
            targets,
            trained,
            softcap=softcap,
            chunk_bytes=rows * vocabulary * dtype.itemsize,
        )
    # The largest tensors: a chunk's logits, and the head itself (here as its gradient).
    assert largest.elements <= max(rows, width) * vocabulary


@pytest.mark.parametrize(
    ("trained", "rows_per_chunk", "products"),
    [((), 5, 1), (("hidden",), 5, 2), (("hidden", "weight"), 31, 3), (("hidden", "weight"), 5, 4)],
)
def test_the_products_are_those_the_documentation_counts(trained, rows_per_chunk, products):
    hidden, weight, targets, _ = problem(31, 47, 123, torch.float32)
    with Products() as seen:
        values_and_gradients(
            linear_logprobs,
            (hidden, weight, None),
            targets,
            trained,
            chunk_bytes=rows_per_chunk * 123 * 4,
        )
    assert seen.operations == products * 31 * 47 * 123


def test_scoring_without_gradients_does_not_project_back():
    hidden, weight, targets, _ = problem(31, 47, 123, torch.float32)
    with torch.no_grad(), Products() as seen:
        linear_logprobs(hidden.requires_grad_(), weight.requires_grad_(), targets)
    assert seen.operations == 31 * 47 * 123


@pytest.mark.parametrize("trained", [("hidden",), ("hidden", "weight", "bias")])
@pytest.mark.parametrize("rows_per_chunk", [5, 100])
@pytest.mark.parametrize("ignore_index", [None, -100])
def test_nothing_on_a_gpus_way_waits_for_it(trained, rows_per_chunk, ignore_index, monkeypatch):
    # The way of a GPU's tensors, walked by tensors on the CPU. Only the kernels are replaced; the
    # reading of values is decided as on a GPU.
    pytest.importorskip("triton", reason="Triton is not installed (it needs Linux)")
    from spftcore.kernels import chunks, pairs_triton

    def target_logprobs_(logits, targets, cap, gradient, ignore_index):
        return target_logprobs_reference(logits, targets.clamp(min=0), cap)

    def write_zeros(*arguments):
        for tensor in arguments[:1]:
            tensor.zero_()

    for module in (head, pairs):
        monkeypatch.setattr(module, "on_triton", lambda tensor: True)
    monkeypatch.setattr(checks, "_readable", lambda tensor, check: check)
    monkeypatch.setattr(chunks, "target_logprobs_", target_logprobs_)
    monkeypatch.setattr(pairs_triton, "pair_loss_triton_", write_zeros)
    monkeypatch.setattr(pairs_triton, "pair_gradient_triton_", write_zeros)
    hidden, weight, targets, bias = problem(14, 47, 123, torch.float32)
    leaves = [
        tensor.requires_grad_(name in trained)
        for tensor, name in ((hidden, "hidden"), (weight, "weight"), (bias, "bias"))
    ]
    borders, first, last = (torch.tensor(values) for values in ([0, 5, 6, 14], [0, 0], [1, 2]))
    with NoWaiting() as watch:
        logprobs = linear_logprobs(
            *leaves[:2],
            targets,
            leaves[2],
            ignore_index=ignore_index,
            chunk_bytes=rows_per_chunk * 123 * 4,
        )
        loss, statistics = pair_loss(
            logprobs, logprobs.detach(), borders, first, last, torch.ones(2), torch.ones(2), 0.5
        )
        loss.sum().backward()
        assert len(statistics.ranked_right) == len(statistics.finite) == 2
    assert watch.seen > 10
    assert all(leaf.grad is not None for leaf in leaves if leaf.requires_grad)


def test_what_the_watch_refuses_is_seen_inside_the_operators():
    # On the CPU the values are read, inside the operators: the watch must notice.
    hidden, weight, targets, _ = problem(4, 5, 7, torch.float32)
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        linear_logprobs(hidden, weight, targets)
    main, other, borders = batch([1, 2])
    zero, one = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        pair_loss(main, other, borders, zero, one, torch.ones(1), None, 1.0)


@pytest.mark.parametrize(("trained", "ignore_index"), [(False, None), (True, None), (False, -100)])
def test_the_operators_keep_the_contract_that_torch_compile_relies_on(trained, ignore_index):
    # Shapes without running, neither mutation nor aliasing: what PyTorch's opcheck tries.
    hidden, weight, targets, bias = problem(14, 47, 123, torch.float32)
    if ignore_index is not None:
        targets[3] = ignore_index
    options = 1.0, 3.0, ignore_index, 2**20
    forward = (hidden, weight, targets, bias, *options, False, True, trained, trained)
    torch.library.opcheck(head._forward_operator, forward)
    logprobs, _, sums, kept = head.forward_pass(*forward)
    if trained:
        backward = (logprobs, hidden, weight, targets, bias, sums, kept, *options, True, True, True)
        torch.library.opcheck(head._backward_operator, backward)
    main, other, borders = batch([3, 1, 2])
    one, two, reward = torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([1.0, 0.5])
    pair = (main, other, borders, one, two, reward, None, None, 0.4, 0.1, False)
    torch.library.opcheck(pairs._pair_operator, pair)
    loss, results = pairs.pair_forward(*pair)
    torch.library.opcheck(pairs._gradient_operator, (loss, main, borders, one, two, results))
