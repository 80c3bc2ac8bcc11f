"""`linear_logprobs`: log-probability of each target from hidden states, without their logits.

Projected logits u = a (h W^T + b), z = c tanh(u) or u, logprob = z_t - logsumexp(z): the head's
`scale`, its `softcap` and the `temperature` fold into a and c, so that the matrix product applies
them for free.

The gradient, by hand. With e_t the target's unit vector, p = softmax(z) and s = dz/du:

    d logprob / d h = a W^T [(e_t - p) * s]        d logprob / d W = a [(e_t - p) * s] h^T
                                                   d logprob / d b = a [(e_t - p) * s]

None depends on the loss, which enters as one coefficient per token (pairs.py). Hence:

- The forward pass forms (e_t - p) * s in the memory of the logits, projects it back and keeps
  [N, H]; backward multiplies rows by their coefficients. Two matrix products, 4 N V H operations,
  no logits formed again, and no need to know the margin in the forward pass: all of it for a
  frozen head.
- A trained head adds the outer product, and forms the logits again for it in backward: four
  products; three where all [N, V] fit in the memory budget, and stay.

How the work is cut differs: rows x vocabulary tiles in the cache of a CPU (tiles.py), chunks of
whole rows on a GPU (chunks.py). Both are registered as operators, opaque to torch.compile: it
neither breaks the graph here nor unrolls the chunks.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spftcore.errors import SpftError
from spftcore.kernels.checks import check_head, check_targets
from spftcore.kernels.dispatch import accurate, on_triton
from spftcore.kernels.logits import target_logprobs_reference
from spftcore.kernels.tiles import Head, tiled_head_gradient_, tiled_logprobs_

# Memory for the logits of one call, and for those that a trained head keeps. V = 152,064 (Qwen2.5):
# CPU: a tile is 2 MiB whatever V is (tiles.py); kept, 48 MiB hold 82 rows in fp32 (608 KB each), or
#   all 8,000 rows of a batch at the demo's V = 1,600. With the [N, H] gradient beside them, a call
#   with a frozen head stays below 64 MB + hidden.
# GPU, bf16: a row is 304 KB, so 512 MiB hold 1,765 rows: 14 tiles of 128, with V / 256 = 594
#   columns of tiles, 63 waves on 132 multiprocessors; 1,765 operations per byte of weight, where
#   790 TFLOP/s over 4.8 TB/s needs 165. 16,384 tokens in fp32 would be 10 GB.
CPU_CHUNK_BYTES = 48 * 1024**2
GPU_CHUNK_BYTES = 512 * 1024**2


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    ignore_index: int | None = None,
    chunk_bytes: int | None = None,
    check: bool = False,
) -> Tensor:
    """Log-probability of each target token under softmax(head(hidden) / temperature).

    hidden: [N, H]; weight: [V, H]; bias: [V] or None; one floating dtype for all three (under
    torch.autocast they are cast to its dtype). targets: [N], int64 or int32, in [0, V).
    scale: the head's factor on the logits (Cohere's `logit_scale`, 1 / Granite's
    `logits_scaling`). softcap: Gemma's cap, z -> softcap tanh(z / softcap), after `scale`.
    temperature: divides last. ignore_index: a target that stands for none: its row has log-prob 0
    and no gradient, whatever its hidden state holds. The rows are left out on the CPU; on a GPU
    their products are made all the same, so there it is cheaper to drop them before the call.
    chunk_bytes: memory for logits; None takes 48 MiB on the CPU and 512 MiB on a GPU (worked
    numbers at the top of this file). check: read the values of `targets` on a GPU too, at the price
    of one synchronisation; on the CPU they are always read. Any strides will do.

    Returns [N] in fp32 (fp64 where hidden is fp64), differentiable once in hidden, weight and
    bias. No tensor of [N, V] is made unless it fits in `chunk_bytes`. Same inputs, same bits.
    Raises `SpftError` for shapes, dtypes, devices or targets that do not fit.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    check_head(hidden, weight, targets, bias)
    if temperature <= 0 or scale == 0 or (softcap is not None and softcap <= 0):
        raise SpftError(
            f"temperature is {temperature:g}, scale {scale:g} and softcap {softcap}; temperature "
            "and softcap must be positive and scale must not be 0."
        )
    if softcap is None:
        alpha, cap = scale / temperature, None
    else:
        alpha, cap = scale / softcap, softcap / temperature
    if chunk_bytes is None:
        chunk_bytes = GPU_CHUNK_BYTES if hidden.is_cuda else CPU_CHUNK_BYTES
    # An autograd function sees requires_grad, not the grad mode: without this, scoring under
    # no_grad would form a gradient nobody reads.
    wanted = torch.is_grad_enabled()
    logprobs: Tensor = _LinearLogprobs.apply(
        hidden,
        weight,
        targets,
        bias,
        alpha,
        cap,
        ignore_index,
        chunk_bytes,
        check,
        wanted and hidden.requires_grad,
        wanted and weight.requires_grad,
        wanted and bias is not None and bias.requires_grad,
    )
    return logprobs


def linear_logprobs_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Plain PyTorch for `linear_logprobs`, holding all logits; arguments and result as there."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    if softcap is None:
        return target_logprobs_reference(logits * (scale / temperature), targets, None)
    return target_logprobs_reference(logits * (scale / softcap), targets, softcap / temperature)


class _LinearLogprobs(torch.autograd.Function):
    """Saves what the forward operator leaves behind, and spends it in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        alpha: float,
        cap: float | None,
        ignore_index: int | None,
        chunk_bytes: int,
        check: bool,
        need_hidden: bool,
        need_weight: bool,
        need_bias: bool,
    ) -> Tensor:
        head_is_trained = need_weight or need_bias
        dtype = hidden.dtype if on_triton(hidden) else accurate(hidden.dtype)
        logits_bytes = hidden.shape[0] * weight.shape[0] * dtype.itemsize
        keep = head_is_trained and logits_bytes <= chunk_bytes
        logprobs, gradient, sums, kept = _forward_operator(
            hidden,
            weight,
            targets,
            bias,
            alpha,
            cap,
            ignore_index,
            chunk_bytes,
            check,
            need_hidden,
            head_is_trained,
            keep,
        )
        ctx.options = alpha, cap, ignore_index, chunk_bytes
        ctx.needed = need_hidden, need_weight, need_bias, keep
        if head_is_trained:
            ctx.save_for_backward(gradient, hidden, weight, targets, bias, sums, kept)
        else:
            ctx.save_for_backward(gradient)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, coefficient: Tensor) -> tuple[Tensor | None, ...]:
        need_hidden, need_weight, need_bias, keep = ctx.needed
        gradient, *saved = ctx.saved_tensors
        grad_hidden = grad_weight = grad_bias = None
        if need_hidden:
            # Into the gradient's own dtype: the product of fp32 and bf16 would be [N, H] in fp32.
            grad_hidden = torch.empty_like(gradient)
            torch.mul(gradient, coefficient[:, None], out=grad_hidden)
        if need_weight or need_bias:
            grad_weight, grad_bias = _backward_operator(
                coefficient, *saved, *ctx.options, keep, need_weight, need_bias
            )
        return (
            grad_hidden,
            grad_weight if need_weight else None,
            None,
            grad_bias if need_bias else None,
            *[None] * 8,
        )


def forward_pass(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    alpha: float,
    cap: float | None,
    ignore_index: int | None,
    chunk_bytes: int,
    check: bool,
    project: bool,
    trained: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs [N]; with `project` their gradient in hidden [N, H]; and, for a `trained`
    head, what `head_gradient` starts from: sums [3, N] (tiles.py), and with `keep` as much as saves
    it a product.

    What was not asked for is empty.
    """
    check_targets(targets, weight.shape[0], ignore_index, check=check)
    head = Head(weight, bias, alpha, cap)
    logprobs, gradient, sums, kept = _forward_memory(hidden, weight, project, trained, keep)
    asked: dict[str, Any] = {
        "gradient": gradient if project else None,
        "kept": kept if keep else None,
        "chunk_bytes": chunk_bytes,
    }
    with _no_autocast(hidden.device.type):
        if on_triton(hidden):
            from spftcore.kernels.chunks import chunked_logprobs_

            chunked_logprobs_(logprobs, head, hidden, targets, ignore_index, **asked)
            return logprobs, gradient, sums, kept
        live = _live_rows(targets, ignore_index)
        if live is None:
            own_sums = sums if trained else None
            tiled_logprobs_(logprobs, own_sums, head, hidden, targets, **asked)
            return logprobs, gradient, sums, kept
        some = logprobs[live]
        some_sums = sums[:, live] if trained else None
        if project:
            asked["gradient"] = gradient[live]
        tiled_logprobs_(some, some_sums, head, hidden[live], targets[live], **asked)
        if some_sums is not None:
            sums.index_copy_(1, live, some_sums)
        logprobs.zero_().index_copy_(0, live, some)
        if project:
            gradient.zero_().index_copy_(0, live, asked["gradient"])
    return logprobs, gradient, sums, kept


_forward_operator = torch.library.custom_op(
    "spftcore::linear_logprobs", forward_pass, mutates_args=()
)


@_forward_operator.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    alpha: float,
    cap: float | None,
    ignore_index: int | None,
    chunk_bytes: int,
    check: bool,
    project: bool,
    trained: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _forward_memory(hidden, weight, project, trained, keep)


def head_gradient(
    coefficient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    sums: Tensor,
    kept: Tensor,
    alpha: float,
    cap: float | None,
    ignore_index: int | None,
    chunk_bytes: int,
    keep: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of weight [V, H] and bias [V] for d loss / d logprob = coefficient [N].

    sums, kept: from `forward_pass`. What was not asked for is empty.
    """
    head = Head(weight, bias, alpha, cap)
    grad_weight, grad_bias = _backward_memory(weight, need_weight, need_bias)
    asked: dict[str, Any] = {
        "kept": kept if keep else None,
        "grad_weight": grad_weight if need_weight else None,
        "grad_bias": grad_bias if need_bias else None,
        "chunk_bytes": chunk_bytes,
    }
    with _no_autocast(hidden.device.type):
        if on_triton(hidden):
            from spftcore.kernels.chunks import chunked_head_gradient_

            chunked_head_gradient_(head, hidden, targets, ignore_index, coefficient, **asked)
            return grad_weight, grad_bias
        live = _live_rows(targets, ignore_index)
        if live is not None:
            hidden, targets, coefficient = hidden[live], targets[live], coefficient[live]
            sums = sums[:, live]
        tiled_head_gradient_(head, hidden, targets, coefficient, sums, **asked)
    return grad_weight, grad_bias


_backward_operator = torch.library.custom_op(
    "spftcore::linear_logprobs_head_gradient", head_gradient, mutates_args=()
)


@_backward_operator.register_fake
def _(
    coefficient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    sums: Tensor,
    kept: Tensor,
    alpha: float,
    cap: float | None,
    ignore_index: int | None,
    chunk_bytes: int,
    keep: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    return _backward_memory(weight, need_weight, need_bias)


def _forward_memory(
    hidden: Tensor, weight: Tensor, project: bool, trained: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory for what `forward_pass` returns."""
    rows, width = hidden.shape
    logprobs = hidden.new_empty(rows, dtype=accurate(hidden.dtype))
    gradient = hidden.new_empty((rows, width) if project else 0)
    if on_triton(hidden):
        kept = hidden.new_empty((rows, weight.shape[0]) if keep else 0)
        return logprobs, gradient, hidden.new_empty(0), kept
    kept = logprobs.new_empty(rows * weight.shape[0] if keep else 0)
    return logprobs, gradient, logprobs.new_empty((3, rows) if trained else 0), kept


def _backward_memory(weight: Tensor, need_weight: bool, need_bias: bool) -> tuple[Tensor, Tensor]:
    grad_weight = weight.new_empty(weight.shape if need_weight else 0)
    return grad_weight, weight.new_empty(weight.shape[0] if need_bias else 0)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast off; leaving it alone where it is off already saves its bookkeeping."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _live_rows(targets: Tensor, ignore_index: int | None) -> Tensor | None:
    """Rows whose target is not ignored, or None for all of them."""
    if ignore_index is None:
        return None
    (live,) = (targets != ignore_index).nonzero(as_tuple=True)
    return None if len(live) == len(targets) else live
