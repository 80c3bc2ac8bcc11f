"""`linear_logprobs`: log-probability of each target from hidden states, chunk by chunk.

Projected logits u = a (h W^T + b), z = c tanh(u) or u, logprob = z_t - logsumexp(z): the head's
`scale`, its `softcap` and the `temperature` fold into a and c, so that the matrix product applies
them for free.

The gradient, by hand. With e_t the target's unit vector, p = softmax(z) and s = dz/du:

    d logprob / d h = a W^T [(e_t - p) * s]        d logprob / d W = a [(e_t - p) * s] h^T

Neither depends on the loss, which enters as one coefficient per token. Hence:

- Frozen head: the forward pass forms (e_t - p) * s in the chunk's logits, projects it back and
  keeps [N, H]; backward multiplies rows by the coefficient. Two matrix products, 4 N V H
  operations, no recomputation, and no need to know the margin in the forward pass.
- Trained head: the chunk is recomputed in backward (four products), except where all rows fit in
  one chunk: then that chunk is kept (three products).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spftcore.errors import SpftError
from spftcore.kernels.checks import check_head
from spftcore.kernels.logits import target_logprobs_, target_logprobs_reference

# Memory for one chunk of logits. Worked numbers, for V = 152,064 (Qwen2.5):
# CPU, fp32: a row is 152,064 * 4 B = 608 KB, so 48 MiB hold 82 rows. A product of 82 rows does
#   2 * 82 = 164 operations per weight read, ~41 per byte: above what a core needs (~60 GFLOP/s
#   over ~10 GB/s = 6), and the whole call stays below 64 MB beside the [N, H] gradient.
# GPU, bf16: a row is 304 KB, so 512 MiB hold 1,765 rows: 14 tiles of 128, with V / 256 = 594
#   columns of tiles, 63 waves on 132 multiprocessors; 1,765 operations per byte of weight, where
#   790 TFLOP/s over 4.8 TB/s needs 165. 16,384 tokens in fp32 would be 10 GB.
CPU_CHUNK_BYTES = 48 * 1024**2
GPU_CHUNK_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class _Projection:
    """How hidden states become logits, and how many rows are held at once."""

    alpha: float  # u = alpha (h W^T + b)
    cap: float | None  # z = cap tanh(u), or None for z = u
    rows: int  # rows of one chunk


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
    check: bool = False,
) -> Tensor:
    """Log-probability of each target token under softmax(head(hidden) / temperature).

    hidden: [N, H]; weight: [V, H]; bias: [V] or None; one floating dtype for all three (under
    torch.autocast they are cast to its dtype). targets: [N], int64 or int32, in [0, V).
    scale: the head's factor on the logits (Cohere's `logit_scale`, 1 / Granite's
    `logits_scaling`). softcap: Gemma's cap, z -> softcap tanh(z / softcap), after `scale`.
    temperature: divides last. chunk_bytes: memory for the logits of one chunk; None takes 48 MiB
    on the CPU and 512 MiB on a GPU (worked numbers at the top of this file).
    check: read the values of `targets` on a GPU too, at the price of one synchronisation; on the
    CPU they are always read.

    Returns [N] in fp32 (fp64 where hidden is fp64), differentiable once in hidden, weight and
    bias. No tensor of [N, V] is made unless it fits in one chunk. Same inputs, same bits.
    Raises `SpftError` for shapes, dtypes, devices or targets that do not fit.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    check_head(hidden, weight, targets, bias, check=check)
    if temperature <= 0 or scale == 0 or (softcap is not None and softcap <= 0):
        raise SpftError(
            f"temperature is {temperature:g}, scale {scale:g} and softcap {softcap}; temperature "
            "and softcap must be positive and scale must not be 0."
        )
    if softcap is None:
        alpha, cap = scale / temperature, None
    else:
        alpha, cap = scale / softcap, softcap / temperature
    projection = _Projection(alpha, cap, _chunk_rows(weight, chunk_bytes))
    if not torch.is_grad_enabled():
        # An autograd function sees requires_grad, not the grad mode: without this, scoring under
        # no_grad would form a gradient nobody reads.
        hidden, weight = hidden.detach(), weight.detach()
        bias = None if bias is None else bias.detach()
    with torch.autocast(device, enabled=False):
        logprobs: Tensor = _LinearLogprobs.apply(hidden, weight, targets, bias, projection)
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
    """Chooses among forward only, gradient in the forward pass, and recomputation in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        projection: _Projection,
    ) -> Tensor:
        need_hidden, need_weight, _, need_bias, _ = ctx.needs_input_grad
        ctx.projection = projection
        ctx.trained_head = need_weight or need_bias
        rows = hidden.shape[0]
        keep = (need_weight or need_bias) and rows <= projection.rows
        project = need_hidden and not (need_weight or need_bias)
        logprobs = hidden.new_empty(rows, dtype=_accurate(hidden.dtype))
        gradient = hidden.new_empty(hidden.shape) if project else None
        buffer = _chunk_buffer(hidden, weight, projection)
        factor = None
        for part in _chunks(rows, projection.rows):
            logits, factor, logprobs[part] = _forward_chunk(
                buffer, hidden[part], weight, targets[part], bias, projection, project or keep
            )
            if gradient is not None:
                _project_back(logits, factor, weight, projection.alpha, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        elif keep:
            ctx.save_for_backward(hidden, weight, targets, bias, buffer, factor)
        elif need_weight or need_bias:
            ctx.save_for_backward(hidden, weight, targets, bias)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if not ctx.trained_head:
            (gradient,) = saved
            scaled = torch.empty_like(gradient)
            torch.mul(gradient, grad[:, None], out=scaled)
            return scaled, None, None, None, None
        return _trained_backward(ctx, grad, *saved)


def _trained_backward(
    ctx: Any,
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    kept: Tensor | None = None,
    kept_factor: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of hidden, weight and bias; each chunk's logits are kept or formed again."""
    need_hidden, need_weight, _, need_bias, _ = ctx.needs_input_grad
    projection: _Projection = ctx.projection
    alpha = projection.alpha
    rows = hidden.shape[0]
    # The head's gradient sums over chunks: in fp32, so that bf16 does not round once per chunk.
    summed = _accurate(weight.dtype) if rows > projection.rows else weight.dtype
    grad_hidden = hidden.new_empty(hidden.shape) if need_hidden else None
    grad_weight = weight.new_empty(weight.shape, dtype=summed) if need_weight else None
    grad_bias = weight.new_zeros(weight.shape[0], dtype=summed) if need_bias else None
    buffer = _chunk_buffer(hidden, weight, projection) if kept is None else kept
    for part in _chunks(rows, projection.rows):
        if kept is None:
            logits, factor, _ = _forward_chunk(
                buffer, hidden[part], weight, targets[part], bias, projection, True
            )
        else:
            logits, factor = kept[:rows], kept_factor
        # The loss's coefficient joins the narrow side [n, H]; the logits [n, V] stay as they are.
        coefficient = (grad[part] if factor is None else grad[part] * factor)[:, None] * alpha
        if grad_hidden is not None:
            torch.mm(logits, weight, out=grad_hidden[part])
            torch.mul(grad_hidden[part], coefficient, out=grad_hidden[part])
        if grad_weight is not None:
            narrow = (hidden[part] * coefficient).to(hidden.dtype)
            _add_outer(grad_weight, logits, narrow, first=part.start == 0)
        if grad_bias is not None:
            grad_bias += torch.mv(logits.t(), coefficient[:, 0].to(logits.dtype))
    if grad_weight is not None:
        grad_weight = grad_weight.to(weight.dtype) if rows else grad_weight.zero_()
    if grad_bias is not None:
        grad_bias = grad_bias.to(weight.dtype)
    return grad_hidden, grad_weight, None, grad_bias, None


def _forward_chunk(
    buffer: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    projection: _Projection,
    gradient: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """One chunk: the logits' memory (holding the gradient where asked), its factor, log-probs."""
    logits = buffer[: hidden.shape[0]]
    alpha = projection.alpha
    if bias is not None:
        torch.addmm(bias, hidden, weight.t(), beta=alpha, alpha=alpha, out=logits)
    elif alpha != 1.0:
        torch.addmm(logits, hidden, weight.t(), beta=0.0, alpha=alpha, out=logits)
    else:
        torch.mm(hidden, weight.t(), out=logits)
    logprobs, factor = target_logprobs_(logits, targets, projection.cap, gradient)
    return logits, factor, logprobs


def _project_back(
    logits: Tensor, factor: Tensor | None, weight: Tensor, alpha: float, *, out: Tensor
) -> None:
    """out [n, H] = alpha * factor * (logits @ weight)."""
    torch.mm(logits, weight, out=out)
    if factor is not None:
        torch.mul(out, factor[:, None] * alpha, out=out)
    elif alpha != 1.0:
        out.mul_(alpha)


def _add_outer(total: Tensor, logits: Tensor, narrow: Tensor, *, first: bool) -> None:
    """total [V, H] += logits^T narrow, or = where `first`; total may be wider than the factors."""
    if total.dtype != logits.dtype and logits.is_cuda:
        product = torch.mm(logits.t(), narrow, out_dtype=total.dtype)
        total.copy_(product) if first else total.add_(product)
        return
    # A CPU product rounds its result to the factors' dtype, so the factors are widened instead.
    left, right = logits.t().to(total.dtype), narrow.to(total.dtype)
    torch.addmm(total, left, right, beta=0.0 if first else 1.0, out=total)


def _chunk_rows(weight: Tensor, chunk_bytes: int | None) -> int:
    """Rows whose logits fit in the budget; at least one."""
    if chunk_bytes is None:
        chunk_bytes = CPU_CHUNK_BYTES if weight.device.type == "cpu" else GPU_CHUNK_BYTES
    return max(1, chunk_bytes // (weight.shape[0] * weight.element_size()))


def _chunk_buffer(hidden: Tensor, weight: Tensor, projection: _Projection) -> Tensor:
    rows = min(hidden.shape[0], projection.rows)
    return hidden.new_empty((rows, weight.shape[0]))


def _chunks(rows: int, at_most: int) -> list[slice]:
    """Cut `rows` into the fewest chunks of at most `at_most`, as even as possible."""
    count = -(-rows // at_most)
    step = -(-rows // count) if count else 1
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and log-probs: fp32, or fp64 for fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
