"""Triton kernels for pairs.py: one launch for the loss of all pairs, one for its gradient.

Forward: one program takes 16 pairs and walks along their four segments in tiles of 16 x 32 tokens,
in fp32. Traffic: each pair reads 2 (len(y) + len(y')) token log-probs once (a gold shared by k
pairs k times) and writes 8 numbers; for 4,096 pairs of 2 x 60 tokens in fp32 that is 4 MB, about
1 us at 4.8 TB/s, below the launch itself. 16 pairs a program give 256 programs there, two per
multiprocessor; a usual query of 60 tokens takes two tiles. Tiles of 64 tokens took twice the
registers, and the compiler spilled for sm_90.

Backward: one program takes 16 sequences, finds their pairs by comparing with all P (in tiles of
16 x 128), sums the coefficients and writes them to the tokens. S P comparisons cost less than a
sort at these sizes (8,192 x 4,096: 34 M), and sums in a fixed order need no atomics: same inputs,
same bits. Traffic: N numbers written, 2 P indices and 3 P numbers read per 16 sequences, from L2.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's parameters: only constexpr ones carry one.

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_PAIRS = 16
BLOCK_TOKENS = 32
BLOCK_SEQUENCES = 16
BLOCK_SCAN = 128
WARPS = 4


@triton.jit
def _segment_sums(main, other, start, end, BLOCK_PAIRS: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """Sums over [start, end) of main and of main - other, each [BLOCK_PAIRS] in fp32.

    The difference is summed token by token: a - a_ref of two long sums would lose its digits.
    """
    offsets = tl.arange(0, BLOCK_TOKENS)
    total = tl.zeros([BLOCK_PAIRS], dtype=tl.float32)
    gain = tl.zeros([BLOCK_PAIRS], dtype=tl.float32)
    longest = tl.max(end - start, axis=0)
    for first in range(0, longest, BLOCK_TOKENS):
        token = start[:, None] + (first + offsets)[None, :]
        inside = token < end[:, None]
        ours = tl.load(main + token, mask=inside, other=0.0).to(tl.float32)
        theirs = tl.load(other + token, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(ours, axis=1)
        gain += tl.sum(ours - theirs, axis=1)
    return total, gain


@triton.jit
def pair_loss_kernel(
    main,
    other,
    cu_seqlens,
    chosen,
    rejected,
    scale,
    weight,
    losses,
    results,
    pairs,
    lam,
    nll_weight,
    WEIGHTED: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """losses [P]; results [7, P]: margin, a, b, a - a_ref, b - b_ref, d loss/d a, d loss/d b."""
    pair = tl.program_id(0) * BLOCK_PAIRS + tl.arange(0, BLOCK_PAIRS)
    inside = pair < pairs
    gold = tl.load(chosen + pair, mask=inside, other=0)
    answer = tl.load(rejected + pair, mask=inside, other=0)
    # int32: a batch holds fewer than 2^31 tokens, and 64-bit offsets would double the registers.
    start = tl.load(cu_seqlens + gold, mask=inside, other=0).to(tl.int32)
    end = tl.load(cu_seqlens + gold + 1, mask=inside, other=0).to(tl.int32)
    a, gain = _segment_sums(main, other, start, end, BLOCK_PAIRS, BLOCK_TOKENS)
    length = tl.where(inside, end - start, 1).to(tl.float32)
    start = tl.load(cu_seqlens + answer, mask=inside, other=0).to(tl.int32)
    end = tl.load(cu_seqlens + answer + 1, mask=inside, other=0).to(tl.int32)
    b, against = _segment_sums(main, other, start, end, BLOCK_PAIRS, BLOCK_TOKENS)

    w = tl.load(scale + pair, mask=inside, other=0.0).to(tl.float32)
    margin = lam * (gain - tl.where(w == 0.0, 0.0, w * against))
    small = tl.exp(-tl.abs(margin))
    # log(1 + small) as in logits_triton: small may be far below fp32's step at 1.
    y = 1.0 + small
    log1p = tl.where(y == 1.0, small, tl.log(y) * (small / tl.where(y == 1.0, 1.0, y - 1.0)))
    loss = tl.where(margin < 0.0, -margin, 0.0) + log1p
    s = tl.where(margin < 0.0, 1.0, small) / (1.0 + small)  # sigmoid(-margin)
    pull = -lam * s
    push = lam * w * s
    loss -= nll_weight * a / length
    pull -= nll_weight / length
    if WEIGHTED:
        factor = tl.load(weight + pair, mask=inside, other=0.0).to(tl.float32)
        # A dropped pair has loss 0 even where its own would be infinite or NaN.
        loss = tl.where(factor == 0.0, 0.0, loss * factor)
        pull = tl.where(factor == 0.0, 0.0, pull * factor)
        push = tl.where(factor == 0.0, 0.0, push * factor)
    tl.store(losses + pair, loss, mask=inside)
    tl.store(results + pair, margin, mask=inside)
    tl.store(results + pairs + pair, a, mask=inside)
    tl.store(results + 2 * pairs + pair, b, mask=inside)
    tl.store(results + 3 * pairs + pair, gain, mask=inside)
    tl.store(results + 4 * pairs + pair, against, mask=inside)
    tl.store(results + 5 * pairs + pair, pull, mask=inside)
    tl.store(results + 6 * pairs + pair, push, mask=inside)


@triton.jit
def pair_gradient_kernel(
    gradient,
    cu_seqlens,
    chosen,
    rejected,
    results,
    upstream,
    upstream_stride,
    sequences,
    pairs,
    BLOCK_SEQUENCES: tl.constexpr,
    BLOCK_SCAN: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """gradient [N]: for each token, the summed coefficients of the pairs of its sequence."""
    sequence = tl.program_id(0) * BLOCK_SEQUENCES + tl.arange(0, BLOCK_SEQUENCES)
    inside = sequence < sequences
    total = tl.zeros([BLOCK_SEQUENCES], dtype=tl.float32)
    for first in range(0, pairs, BLOCK_SCAN):
        pair = first + tl.arange(0, BLOCK_SCAN)
        known = pair < pairs
        above = tl.load(upstream + pair * upstream_stride, mask=known, other=0.0).to(tl.float32)
        pull = tl.load(results + 5 * pairs + pair, mask=known, other=0.0)
        push = tl.load(results + 6 * pairs + pair, mask=known, other=0.0)
        pull = tl.where(pull == 0.0, 0.0, pull * above)
        push = tl.where(push == 0.0, 0.0, push * above)
        gold = tl.load(chosen + pair, mask=known, other=-1)
        answer = tl.load(rejected + pair, mask=known, other=-1)
        total += tl.sum(tl.where(sequence[:, None] == gold[None, :], pull[None, :], 0.0), axis=1)
        total += tl.sum(tl.where(sequence[:, None] == answer[None, :], push[None, :], 0.0), axis=1)
    start = tl.load(cu_seqlens + sequence, mask=inside, other=0).to(tl.int32)
    end = tl.load(cu_seqlens + sequence + 1, mask=inside, other=0).to(tl.int32)
    offsets = tl.arange(0, BLOCK_TOKENS)
    longest = tl.max(end - start, axis=0)
    for first in range(0, longest, BLOCK_TOKENS):
        token = start[:, None] + (first + offsets)[None, :]
        value = tl.broadcast_to(total[:, None], [BLOCK_SEQUENCES, BLOCK_TOKENS])
        tl.store(gradient + token, value.to(gradient.dtype.element_ty), mask=token < end[:, None])


def pair_loss_triton_(
    loss: Tensor,
    results: Tensor,
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    rejected_scale: Tensor,
    weight: Tensor | None,
    lam: float,
    nll_weight: float,
) -> None:
    """Write `pairs.pair_forward`'s loss [P] and results [7, P], both fp32, in one launch."""
    pairs = chosen.shape[0]
    if pairs == 0:
        return
    scale = rejected_scale.contiguous()
    with torch.cuda.device_of(logprobs):
        pair_loss_kernel[(triton.cdiv(pairs, BLOCK_PAIRS),)](
            logprobs.contiguous(),
            reference.contiguous(),
            cu_seqlens.contiguous(),
            chosen.contiguous(),
            rejected.contiguous(),
            scale,
            scale if weight is None else weight.contiguous(),
            loss,
            results,
            pairs,
            lam,
            nll_weight,
            WEIGHTED=weight is not None,
            BLOCK_PAIRS=BLOCK_PAIRS,
            BLOCK_TOKENS=BLOCK_TOKENS,
            num_warps=WARPS,
        )


def pair_gradient_triton_(
    gradient: Tensor,
    upstream: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    results: Tensor,
) -> None:
    """Write `pairs.pair_gradient`'s gradient [N] in one launch; tokens of no segment stay."""
    sequences, pairs = cu_seqlens.shape[0] - 1, chosen.shape[0]
    with torch.cuda.device_of(results):
        pair_gradient_kernel[(triton.cdiv(sequences, BLOCK_SEQUENCES),)](
            gradient,
            cu_seqlens.contiguous(),
            chosen.contiguous(),
            rejected.contiguous(),
            results,
            upstream,
            upstream.stride(0),
            sequences,
            pairs,
            BLOCK_SEQUENCES=BLOCK_SEQUENCES,
            BLOCK_SCAN=BLOCK_SCAN,
            BLOCK_TOKENS=BLOCK_TOKENS,
            num_warps=WARPS,
        )
