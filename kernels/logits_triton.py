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

Tuning: `tune` measures the short list below on the GPU at hand and keeps the fastest for the rest
of the process. It runs when called and never by itself: the block decides in which order a row is
summed, so that a choice made by timing could give a resumed run other last bits than an
uninterrupted one. Untuned, the block is always the one above: same inputs, same bits, in every
process.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's parameters: only constexpr ones carry one.

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from spftcore.errors import SpftError


@dataclass(frozen=True)
class Launch:
    """Columns a program handles at a time, and its warps."""

    block: int
    warps: int


# All keep 16 columns a thread, or 8 in the last: more per thread spilled with a cap.
FIXED = Launch(8192, 16)
CANDIDATES = (FIXED, Launch(2048, 4), Launch(4096, 8), Launch(16384, 32), Launch(8192, 32))

# What `tune` chose, by (device, dtype, vocabulary, capped); FIXED for all others.
_tuned: dict[tuple[torch.device, torch.dtype, int, bool], Launch] = {}


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
    ignored,
    IGNORES: tl.constexpr,
    CAPPED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row u of logits [n, V] (row stride `stride`, in elements) -> logprobs [n] in fp32.

    z = cap tanh(u) if CAPPED, else u. With GRADIENT, u becomes d logprob / d u. A target outside
    [0, V) gives NaN and touches nothing outside the row. With IGNORES, a row whose target is
    `ignored` gets log-prob 0 and gradient 0, and its logits are not read for the sum.
    """
    index = tl.program_id(0)
    # int64: index * stride passes 2^31 at 14,123 rows of 152,064.
    row = logits + index.to(tl.int64) * stride
    target = tl.load(targets + index)
    known = (target >= 0) & (target < vocabulary)
    summed = vocabulary
    if IGNORES:
        summed = tl.where(target == ignored, 0, vocabulary)
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
    for start in range(0, summed, BLOCK):
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
    if IGNORES:
        loss = tl.where(target == ignored, 0.0, loss)
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
            if IGNORES:
                gradient = tl.where(target == ignored, 0.0, gradient)
            tl.store(row + column, gradient.to(logits.dtype.element_ty), mask=inside)


def target_logprobs_(
    logits: Tensor,
    targets: Tensor,
    cap: float | None,
    gradient: bool,
    ignore_index: int | None = None,
) -> Tensor:
    """Log-prob of each row's target in fp32, [n, V], [n] -> [n]; logits become its gradient.

    logits: fp32, fp16 or bf16, last dimension contiguous; overwritten by d logprob / d u where
    `gradient`, else left alone. targets: int32 or int64. cap: c, or None. ignore_index: rows with
    this target get log-prob and gradient 0. Raises `SpftError` for logits of another layout.
    """
    if logits.dim() != 2 or logits.stride(1) != 1:
        raise SpftError(
            f"The logits' shape is {list(logits.shape)} and their strides {logits.stride()}; the "
            "kernel reads rows [n, V] whose last dimension is contiguous. Call .contiguous()."
        )
    key = (logits.device, logits.dtype, logits.shape[1], cap is not None)
    return _launch(_tuned.get(key, FIXED), logits, targets, cap, gradient, ignore_index)


def tune(
    vocabulary: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    capped: bool = False,
    milliseconds: Callable[[Callable[[], Tensor]], float] = triton.testing.do_bench,
) -> Launch:
    """Measure `CANDIDATES` on rows of `vocabulary` logits and use the fastest from now on.

    device: with its index. milliseconds: measures one call. Call it before training begins, on
    every process alike, and not where a run must repeat another's bits.
    """
    rows = 4 * 132  # four waves of the largest multiprocessor counts, 2 resident programs each
    logits = torch.zeros(rows, vocabulary, dtype=dtype, device=device)
    targets = torch.zeros(rows, dtype=torch.int64, device=device)
    cap = 1.0 if capped else None

    def cost(launch: Launch) -> float:
        return milliseconds(lambda: _launch(launch, logits, targets, cap, True, None))

    fastest = min(CANDIDATES, key=cost)
    _tuned[(logits.device, dtype, vocabulary, capped)] = fastest
    return fastest


def _launch(
    launch: Launch,
    logits: Tensor,
    targets: Tensor,
    cap: float | None,
    gradient: bool,
    ignore_index: int | None,
) -> Tensor:
    rows, vocabulary = logits.shape
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return logprobs
    block = min(launch.block, triton.next_power_of_2(vocabulary))
    with torch.cuda.device_of(logits):
        target_logprobs_kernel[(rows,)](
            logits,
            targets.contiguous(),
            logprobs,
            vocabulary,
            logits.stride(0),
            0.0 if cap is None else cap,
            0 if ignore_index is None else ignore_index,
            IGNORES=ignore_index is not None,
            CAPPED=cap is not None,
            GRADIENT=gradient,
            BLOCK=block,
            num_warps=min(launch.warps, max(1, block // 512)),
        )
    return logprobs
