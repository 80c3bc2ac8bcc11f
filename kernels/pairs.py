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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from spftcore.kernels.checks import check_borders, check_pair_values, check_pairs, check_segments
from spftcore.kernels.dispatch import accurate, on_triton


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
    check_pairs(logprobs, reference, cu_seqlens, chosen, rejected, values)
    loss, results = _PairLoss.apply(
        logprobs,
        reference,
        cu_seqlens,
        chosen,
        rejected,
        reward,
        None if rejected_scale is reward else rejected_scale,  # torch.compile wants no duplicates
        weight,
        lam,
        nll_weight,
        check,
    )
    return loss, PairStatistics(*results[:5].unbind())


class _PairLoss(torch.autograd.Function):
    """The two operators below: the loss with its coefficients, and the tokens' gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        logprobs: Tensor,
        reference: Tensor,
        cu_seqlens: Tensor,
        chosen: Tensor,
        rejected: Tensor,
        reward: Tensor,
        rejected_scale: Tensor | None,
        weight: Tensor | None,
        lam: float,
        nll_weight: float,
        check: bool,
    ) -> tuple[Tensor, Tensor]:
        loss, results = _pair_operator(
            logprobs,
            reference,
            cu_seqlens,
            chosen,
            rejected,
            reward,
            rejected_scale,
            weight,
            lam,
            nll_weight,
            check,
        )
        ctx.save_for_backward(logprobs, cu_seqlens, chosen, rejected, results)
        ctx.mark_non_differentiable(results)
        ctx.set_materialize_grads(False)
        return loss, results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        gradient = None
        if upstream is not None:
            gradient = _gradient_operator(upstream, *ctx.saved_tensors)
        return gradient, *[None] * 10


def pair_forward(
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    reward: Tensor,
    rejected_scale: Tensor | None,
    weight: Tensor | None,
    lam: float,
    nll_weight: float,
    check: bool,
) -> tuple[Tensor, Tensor]:
    """Loss [P]; results [7, P]: margin, a, b, a - a_ref, b - b_ref, d loss / d a, d loss / d b."""
    values = {"reward": reward, "weight": weight, "rejected_scale": rejected_scale}
    tokens = logprobs.shape[0]
    check_pair_values(cu_seqlens, tokens, chosen, rejected, values, check=check)
    if rejected_scale is None:
        rejected_scale = reward
    if on_triton(logprobs):
        from spftcore.kernels.pairs_triton import pair_loss_triton_

        loss, results = _pair_memory(logprobs, chosen)
        pair_loss_triton_(
            loss, results, logprobs, reference, cu_seqlens, chosen, rejected, rejected_scale,
            weight, lam, nll_weight,
        )  # fmt: skip
        return loss, results
    loss, margin, total, gain = _pair_terms(
        logprobs, reference, cu_seqlens, chosen, rejected, rejected_scale, weight, lam, nll_weight
    )
    s = torch.sigmoid(-margin)
    pull, push = s * -lam, s * (lam * rejected_scale.to(s.dtype))
    if nll_weight:
        pull -= nll_weight / cu_seqlens.diff()[chosen].to(s.dtype)
    if weight is not None:
        dropped, factor = weight == 0, weight.to(s.dtype)
        pull = (pull * factor).masked_fill_(dropped, 0.0)
        push = (push * factor).masked_fill_(dropped, 0.0)
    statistics = margin, total[chosen], total[rejected], gain[chosen], gain[rejected]
    return loss, torch.stack([*statistics, pull, push])


def pair_gradient(
    upstream: Tensor,
    logprobs: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    results: Tensor,
) -> Tensor:
    """d loss / d logprobs [N], for the losses' gradient upstream [P] and `pair_forward`'s results.

    `logprobs` lends its shape and dtype.
    """
    if on_triton(logprobs):
        from spftcore.kernels.pairs_triton import pair_gradient_triton_

        gradient = logprobs.new_zeros(logprobs.shape)
        pair_gradient_triton_(gradient, upstream, cu_seqlens, chosen, rejected, results)
        return gradient
    # A dropped pair has coefficient 0 and stays at 0 for any upstream.
    pull, push = (torch.where(row == 0, row, row * upstream) for row in results[5:])
    coefficients = results.new_zeros(cu_seqlens.shape[0] - 1)
    coefficients.index_add_(0, chosen, pull).index_add_(0, rejected, push)
    lengths = cu_seqlens.diff()
    spread = coefficients.repeat_interleave(lengths, output_size=logprobs.shape[0])
    return spread.to(logprobs.dtype)


_pair_operator = torch.library.custom_op("spftcore::pair_loss", pair_forward, mutates_args=())
_gradient_operator = torch.library.custom_op(
    "spftcore::pair_loss_gradient", pair_gradient, mutates_args=()
)


@_pair_operator.register_fake
def _(
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    reward: Tensor,
    rejected_scale: Tensor | None,
    weight: Tensor | None,
    lam: float,
    nll_weight: float,
    check: bool,
) -> tuple[Tensor, Tensor]:
    return _pair_memory(logprobs, chosen)


@_gradient_operator.register_fake
def _(
    upstream: Tensor,
    logprobs: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    results: Tensor,
) -> Tensor:
    return logprobs.new_empty(logprobs.shape)


def _pair_memory(logprobs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    pairs, dtype = chosen.shape[0], accurate(logprobs.dtype)
    return logprobs.new_empty(pairs, dtype=dtype), logprobs.new_empty(7, pairs, dtype=dtype)


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
    """Plain PyTorch for `pair_loss`, differentiable by autograd; arguments and result as there."""
    loss, margin, total, gain = _pair_terms(
        logprobs, reference, cu_seqlens, chosen, rejected, rejected_scale, weight, lam, nll_weight
    )
    total, gain = total.detach(), gain.detach()
    statistics = PairStatistics(
        margin.detach(), total[chosen], total[rejected], gain[chosen], gain[rejected]
    )
    return loss, statistics


def _pair_terms(
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    rejected_scale: Tensor,
    weight: Tensor | None,
    lam: float,
    nll_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """loss [P] and margin [P]; sums of log-probs [S] and of their gains over the reference [S]."""
    total = _segment_sums(logprobs, cu_seqlens)
    # Token by token: the difference of two long sums would lose its digits.
    gain = _segment_sums(logprobs.to(total.dtype) - reference.to(total.dtype), cu_seqlens)
    w = rejected_scale.to(total.dtype)
    # Not w * (b - b_ref): a right answer's log-prob of -inf must not turn 0 * inf into NaN.
    margin = lam * (gain[chosen] - w * gain[rejected].where(w != 0, 0.0))
    loss = F.softplus(-margin, threshold=_SOFTPLUS_LINEAR)
    if nll_weight:
        loss = loss - nll_weight * total[chosen] / cu_seqlens.diff()[chosen]
    if weight is not None:
        # A dropped pair has loss 0 even where its own would be infinite.
        loss = torch.where(weight == 0, 0.0, loss * weight.to(loss.dtype))
    return loss, margin, total, gain


def sequence_sums(logprobs: Tensor, cu_seqlens: Tensor, *, check: bool = False) -> Tensor:
    """Sum of each completion's token log-probs, [N] -> [S], in fp32 (fp64 for fp64).

    cu_seqlens: [S + 1]; differentiable in `logprobs`. `check` as in `pair_loss`; under
    torch.compile values are read only with it.
    """
    check_segments(logprobs, cu_seqlens)
    if check or not torch.compiler.is_compiling():
        check_borders(cu_seqlens, logprobs.shape[0], check=check)
    return _segment_sums(logprobs, cu_seqlens)


def _segment_sums(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    accurate = values if values.dtype == torch.float64 else values.float()
    # Not differences of a running sum: they would carry the digits of the whole batch.
    sums: Tensor = torch.segment_reduce(accurate, "sum", offsets=cu_seqlens.long(), unsafe=True)
    return sums


# Where softplus(x) is taken as x; PyTorch's 20 shows in fp64 (exp(-20) = 2e-9), 40 does not.
_SOFTPLUS_LINEAR = 40.0
