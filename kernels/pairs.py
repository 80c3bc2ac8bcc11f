"""`pair_loss`: sequence sums, margin, logistic loss, its gradient and statistics, per pair.

For pair p with gold y and rejected answer y', a and b the sums of the main model's token log-probs
over y and y', a_ref and b_ref the reference model's, w the scale of the rejected term:

    m = lam * [(a - a_ref) - w (b - b_ref)]
    loss = weight * [log(1 + exp(-m)) - nll_weight * a / len(y)]

By hand, with s = 1 / (1 + exp(m)) = sigmoid(-m):

    d loss / d a = weight * (-lam s - nll_weight / len(y))       d loss / d b = weight * lam w s

and every token of a sequence receives the coefficient of its sequence, summed over the pairs the
sequence is in. SPFT-SQL (arXiv 2509.03937, eq. 3) is w = R, SPIN is w = 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spftcore.kernels.checks import check_pairs, check_segments


@dataclass(frozen=True)
class PairStatistics:
    """What the logs want of each pair; all detached, [P], in fp32 (fp64 for fp64 log-probs)."""

    margin: Tensor  # m above, lam included
    chosen_logprob: Tensor  # a
    rejected_logprob: Tensor  # b
    chosen_gain: Tensor  # a - a_ref: how far the main model is above the reference on the gold
    rejected_gain: Tensor  # b - b_ref, the same on the rejected answer

    @property
    def ranked_right(self) -> Tensor:
        """Whether the main model gained more on the gold than on the rejected answer: [P] bool.

        Its mean is the ranking accuracy. It does not depend on the reward: with R = 0 the margin
        says nothing about y'.
        """
        return self.chosen_gain > self.rejected_gain

    @property
    def finite(self) -> Tensor:
        """Pairs to trust, [P] bool: False names each pair that a NaN or a lost margin came through.

        Also where the NaN lies in a rejected answer that the loss leaves out (w = 0): its tokens
        would still turn the gradient into NaN, since 0 * NaN is NaN.
        """
        return self.margin.isfinite() & ~self.rejected_gain.isnan()


def pair_loss(
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    reward: Tensor,
    weight: Tensor | None,
    lam: float,
    *,
    rejected_scale: Tensor | None = None,
    nll_weight: float = 0.0,
    check: bool = False,
) -> tuple[Tensor, PairStatistics]:
    """Logistic loss of each (gold, rejected) pair of completions over two models' token log-probs.

    logprobs: [N], the main model's, of the tokens of S completions one after another; carries the
    gradient. reference: [N], the opponent's (or DPO's starting model's), without gradient.
    cu_seqlens: [S + 1], completion s holds tokens cu_seqlens[s] to cu_seqlens[s + 1].
    chosen, rejected: [P], completions of each pair; one gold may meet several rejected answers.
    reward: [P] in [0, 1], R(y') of the paper: 1 where the result of y' differs from the gold's.
    weight: [P] at least 0, or None for ones; 0 drops the pair. lam: the paper's lambda.
    rejected_scale: [P] in [0, 1], w above; None takes the reward (SPFT). nll_weight: above.
    check: read values on a GPU too (one synchronisation each); on the CPU they are always read.

    Returns (loss [P], statistics). The caller reduces: mean over the pairs of the global batch.
    Sums run in fp32 (fp64 for fp64), without atomics: same inputs, same bits.
    Raises `SpftError` for arguments that do not fit together.
    """
    values = {"reward": reward, "weight": weight, "rejected_scale": rejected_scale}
    check_pairs(logprobs, reference, cu_seqlens, chosen, rejected, values, check=check)
    if rejected_scale is None:
        rejected_scale = reward
    if logprobs.is_cuda and logprobs.dtype != torch.float64:
        from spftcore.kernels.pairs_triton import pair_loss_triton

        return pair_loss_triton(
            logprobs, reference, cu_seqlens, chosen, rejected, rejected_scale, weight, lam,
            nll_weight,
        )  # fmt: skip
    return pair_loss_reference(
        logprobs, reference, cu_seqlens, chosen, rejected, rejected_scale, weight, lam, nll_weight
    )


def pair_loss_reference(
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    rejected_scale: Tensor,
    weight: Tensor | None,
    lam: float,
    nll_weight: float = 0.0,
) -> tuple[Tensor, PairStatistics]:
    """Plain, differentiable PyTorch for `pair_loss`, and its CPU path; arguments as there."""
    total = _segment_sums(logprobs, cu_seqlens)
    # Token by token: the difference of two long sums would lose its digits.
    gain = _segment_sums(logprobs.to(total.dtype) - reference.to(total.dtype), cu_seqlens)
    chosen_gain, rejected_gain = gain[chosen], gain[rejected]
    w = rejected_scale.to(total.dtype)
    # Not w * (b - b_ref): a right answer's log-prob of -inf must not turn 0 * inf into NaN.
    margin = lam * (chosen_gain - w * rejected_gain.where(w != 0, 0.0))
    loss = F.softplus(-margin, threshold=_SOFTPLUS_LINEAR)
    if nll_weight:
        loss = loss - nll_weight * total[chosen] / cu_seqlens.diff()[chosen]
    if weight is not None:
        loss = loss * weight.to(loss.dtype)
    total = total.detach()
    statistics = PairStatistics(
        margin.detach(),
        total[chosen],
        total[rejected],
        chosen_gain.detach(),
        rejected_gain.detach(),
    )
    return loss, statistics


def sequence_sums(logprobs: Tensor, cu_seqlens: Tensor, *, check: bool = False) -> Tensor:
    """Sum of each completion's token log-probs, [N] -> [S], in fp32 (fp64 for fp64).

    cu_seqlens: [S + 1]; differentiable in `logprobs`. `check` as in `pair_loss`.
    """
    check_segments(logprobs, cu_seqlens, check=check)
    return _segment_sums(logprobs, cu_seqlens)


def _segment_sums(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    accurate = values if values.dtype == torch.float64 else values.float()
    # Not differences of a running sum: they would carry the digits of the whole batch.
    sums: Tensor = torch.segment_reduce(accurate, "sum", offsets=cu_seqlens.long(), unsafe=True)
    return sums


# Where softplus(x) is taken as x; PyTorch's 20 shows in fp64 (exp(-20) = 2e-9), 40 does not.
_SOFTPLUS_LINEAR = 40.0
