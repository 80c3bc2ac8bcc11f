"""The row work on one chunk of logits: target log-probabilities and, in place, their gradient.

For one row of projected logits u (already scaled by the matrix product, see head.py), with the
optional cap z = c tanh(u) (z = u without a cap) and target t:

    rest    = sum over v != t of exp(z_v)
    logprob = z_t - log(exp(z_t) + rest) = -softplus(log(rest) - z_t)
    d logprob / d u_v = ([v = t] - softmax(z)_v) * dz_v/du_v,   dz/du = c (1 - (z / c)^2) or 1

The target is kept out of the sum: for a confident target, 1 - p_t = rest / (exp(z_t) + rest) and
logprob ~ -rest / exp(z_t) then keep all their digits, where log_softmax returns 0 and 1 - p_t
cancels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The row work passes over the logits five times. Rows are taken in blocks of about this size, so
# that all passes after the first find them in a core's L2 cache: 512 KiB is half of a usual one.
_BLOCK_BYTES = 512 * 1024


def target_logprobs_(
    logits: Tensor, targets: Tensor, cap: float | None, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each row's target; the logits are overwritten.

    logits: [n, V], the projected logits u; contiguous rows. targets: [n], int64 or int32.
    cap: c above, or None. gradient: whether the logits are turned into the gradient.

    Returns (logprobs [n] in fp32, or fp64 for fp64 logits; factor [n] or None). With `gradient`,
    d logprob / d u = factor[:, None] * logits afterwards (factor None stands for ones): dividing
    the projected row [H] is cheaper than dividing the row of logits [V].
    """
    if logits.is_cuda and logits.dtype != torch.float64:
        from spftcore.kernels.logits_triton import target_logprobs_triton_

        return target_logprobs_triton_(logits, targets, cap, gradient), None
    return _target_logprobs_torch_(logits, targets, cap, gradient)


def target_logprobs_reference(logits: Tensor, targets: Tensor, cap: float | None) -> Tensor:
    """Plain, differentiable PyTorch for `target_logprobs_`: [n, V], [n] -> [n]."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    if cap is not None:
        z = cap * torch.tanh(z)
    return torch.log_softmax(z, dim=-1).gather(1, targets.long()[:, None])[:, 0]


def _target_logprobs_torch_(
    logits: Tensor, targets: Tensor, cap: float | None, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The CPU path: PyTorch operations over cache-sized blocks of rows."""
    rows, vocabulary = logits.shape
    wide = logits.dtype in (torch.float32, torch.float64)
    accurate = logits.dtype if wide else torch.float32
    logprobs = torch.empty(rows, dtype=accurate, device=logits.device)
    factor = torch.empty_like(logprobs) if gradient and wide else None
    index = targets.long()[:, None]
    step = max(1, _BLOCK_BYTES // (vocabulary * accurate.itemsize))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        z = logits[block] if wide else logits[block].float()
        row_logprobs, row_factor = _block_(z, index[block], cap, gradient)
        logprobs[block] = row_logprobs
        if factor is not None:
            factor[block] = row_factor
        elif gradient:
            # fp16 holds no unnormalised sum above 65,504: normalise before rounding.
            logits[block] = z.mul_(row_factor[:, None])
    return logprobs, factor


def _block_(z: Tensor, index: Tensor, cap: float | None, gradient: bool) -> tuple[Tensor, Tensor]:
    """Rows [b, V] in fp32 or fp64: log-probs [b] and the factor [b]; z holds the gradient after.

    With m the row's maximum, z becomes exp(z - m) off the target and -rest at the target, so that
    -z / (exp(z_t - m) + rest) is [v = t] - softmax(z).
    """
    slope = None
    if cap is not None:
        z.tanh_()
        if gradient:
            slope = torch.addcmul(torch.full((), cap, dtype=z.dtype), z, z, value=-cap)
        z.mul_(cap)
    top = z.amax(dim=1, keepdim=True)
    z.sub_(top)
    target = z.gather(1, index)
    z.exp_().scatter_(1, index, 0.0)
    rest = z.sum(dim=1, keepdim=True)
    logprobs = F.softplus(rest.log() - target, threshold=_SOFTPLUS_LINEAR).neg_()
    if gradient:
        z.scatter_(1, index, -rest)
        if slope is not None:
            z.mul_(slope)
    return logprobs[:, 0], -(target.exp() + rest).reciprocal_()[:, 0]


# softplus(x) = x + log1p(exp(-x)); PyTorch cuts the second term at 20, where it is still 2e-9 and
# so visible in fp64. At 40 it is below the last digit there too.
_SOFTPLUS_LINEAR = 40.0
