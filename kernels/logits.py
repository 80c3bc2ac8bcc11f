"""Plain PyTorch for the row work on logits: what logits_triton.py and tiles.py are checked against.

For one row of projected logits u (already scaled, see head.py), with the optional cap
z = c tanh(u) (z = u without a cap) and target t:

    logprob = z_t - logsumexp(z)
    d logprob / d u_v = ([v = t] - softmax(z)_v) * dz_v/du_v,   dz/du = c (1 - (z / c)^2) or 1
"""

import torch
from torch import Tensor


def target_logprobs_reference(logits: Tensor, targets: Tensor, cap: float | None) -> Tensor:
    """Log-probability of each row's target: [n, V], [n] -> [n] in fp32, or fp64; differentiable."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    if cap is not None:
        z = cap * torch.tanh(z)
    return torch.log_softmax(z, dim=-1).gather(1, targets.long()[:, None])[:, 0]
