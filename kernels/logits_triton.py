"""Triton kernel for logits.py: online log-sum-exp with target gather, and the in-place gradient.

One program owns one row of logits [V].

Traffic per row of V logits of s bytes: the first sweep reads V s. With the gradient, a second
sweep reads V s again and writes V s: 3 V s if nothing is still cached, 2 V s at best. For bf16 and
V = 152,064 that is 0.3 MB, or 0.6 to 0.9 MB. The second sweep runs backwards, so that it starts
with what the first one left in the L2 cache.

Block: 8,192 columns over 16 warps are 16 elements, or two 16-byte loads of bf16, per thread. The
compiler takes 32 registers without the gradient and 40 to 64 with it, so that four or two programs
share a multiprocessor's 65,536: 80 MB of rows are under way on 132 of them, about 1.6 times an
H200's L2. The maximum is kept per block, not per lane: a lane's own maximum would cost a
second exponential per element, 4.8 T/s at H200 bandwidth where its units give 3.7 T/s
(132 multiprocessors x 16 a clock x 1.75 GHz).
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's parameters: only constexpr ones carry one.

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192
WARPS = 16


@triton.jit
def _tanh(u):
    """tanh to fp32's last digits: the exponential form cancels near 0, where the series takes over.

    At |u| = 0.25 the first omitted term of the series, 1382/155925 u^11, is 8e-9 of u.
    """
    square = u * u
    series = -17.0 / 315.0 + square * (62.0 / 2835.0)
    series = u + u * square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * series))
    small = tl.exp(-2.0 * tl.abs(u))
    large = (1.0 - small) / (1.0 + small)
    large = tl.where(u < 0.0, -large, large)
    return tl.where(tl.abs(u) < 0.25, series, large)


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0 with all its digits (Kahan): log(y) is exact to x / (y - 1), y = 1 + x.

    Kept apart from `tl.extra.libdevice`, which the interpreter cannot run.
    """
    y = 1.0 + x
    return tl.where(y == 1.0, x, tl.log(y) * (x / tl.where(y == 1.0, 1.0, y - 1.0)))


@triton.jit
def target_logprobs_kernel(
    logits,
    targets,
    logprobs,
    vocabulary,
    stride,
    cap,
    CAPPED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row u of logits [n, V] (row stride `stride`, in elements) -> logprobs [n] in fp32.

    z = cap tanh(u) if CAPPED, else u. With GRADIENT, u becomes d logprob / d u. A target outside
    [0, V) gives NaN and touches nothing outside the row.
    """
    index = tl.program_id(0)
    # int64: index * stride passes 2^31 at 14,123 rows of 152,064.
    row = logits + index.to(tl.int64) * stride
    target = tl.load(targets + index)
    known = (target >= 0) & (target < vocabulary)
    # Read before the first sweep: its reductions are barriers, so no warp's second sweep can
    # overwrite the target's logit before every warp has read it.
    chosen = tl.load(row + target, mask=known, other=float("nan")).to(tl.float32)
    if CAPPED:
        chosen = cap * _tanh(chosen)

    # rest = sum over v != t of exp(z_v - top). A finite start keeps V = 1 (an empty sum) free of
    # inf - inf.
    columns = tl.arange(0, BLOCK)
    top = -1.0e30
    rest = 0.0
    for start in range(0, vocabulary, BLOCK):
        column = start + columns
        z = tl.load(row + column, mask=column < vocabulary, other=0.0).to(tl.float32)
        if CAPPED:
            z = cap * _tanh(z)
        z = tl.where((column < vocabulary) & (column != target), z, -float("inf"))
        higher = tl.maximum(top, tl.max(z, axis=0))
        rest = rest * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), axis=0)
        top = higher
    # odds = log of (1 - p_t) / p_t; logprob = -softplus(odds).
    odds = tl.log(rest) + top - chosen
    loss = tl.maximum(odds, 0.0) + _log1p(tl.exp(-tl.abs(odds)))
    loss = tl.where(odds == odds, loss, odds)  # a maximum may swallow NaN
    tl.store(logprobs + index, -loss)

    if GRADIENT:
        total = chosen + loss
        missing = tl.exp(-tl.maximum(-odds, 0.0) - _log1p(tl.exp(-tl.abs(odds))))  # 1 - p_t
        blocks = tl.cdiv(vocabulary, BLOCK)
        for block in range(blocks):
            column = (blocks - 1 - block) * BLOCK + columns
            inside = column < vocabulary
            u = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
            if CAPPED:
                flat = _tanh(u)
                slope = cap * (1.0 - flat * flat)
                z = cap * flat
            else:
                slope = 1.0
                z = u
            gradient = tl.where(column == target, missing, -tl.exp(z - total)) * slope
            tl.store(row + column, gradient.to(logits.dtype.element_ty), mask=inside)


def target_logprobs_triton_(
    logits: Tensor, targets: Tensor, cap: float | None, gradient: bool
) -> Tensor:
    """`logits.target_logprobs_` on a GPU: [n, V], [n] -> [n] in fp32; the gradient is normalised.

    logits: fp32, fp16 or bf16, last dimension contiguous; overwritten where `gradient`.
    """
    rows, vocabulary = logits.shape
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return logprobs
    with torch.cuda.device_of(logits):
        target_logprobs_kernel[(rows,)](
            logits,
            targets.contiguous(),
            logprobs,
            vocabulary,
            logits.stride(0),
            0.0 if cap is None else cap,
            CAPPED=cap is not None,
            GRADIENT=gradient,
            BLOCK=min(BLOCK, triton.next_power_of_2(vocabulary)),
            num_warps=WARPS if vocabulary > 2048 else 4,
        )
    return logprobs
