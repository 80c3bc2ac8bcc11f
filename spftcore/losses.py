"""The losses a training step uses: the family of pair losses, and the NLL of completions.

All pair losses share one form (kernels/pairs.py) and differ in the scale w of the rejected term,
in the pairs they keep, and in whose log-probs the caller gives as reference:

    kind     w    pairs kept   reference
    spft     R    all          the opponent
    spin     1    all          the opponent
    exspin   1    R = 1        the opponent
    dpo      1    R = 1        the main model as it was at the start
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.kernels import PairStatistics, pair_loss, sequence_sums

LossKind = Literal["spft", "spin", "exspin", "dpo"]


@dataclass(frozen=True)
class LossConfig:
    """Which pair loss, and how strongly it pulls.

    kind: see the table above. lam: lambda of the paper, positive; the slope of the logistic loss
    in log-probability. nll_weight: weight, at least 0, of an added -log p(gold) per token.
    Raises `SpftError` for values outside these ranges.
    """

    kind: LossKind
    lam: float
    nll_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(LossKind):
            known = ", ".join(get_args(LossKind))
            raise SpftError(f"There is no loss called '{self.kind}'. Choose one of: {known}.")
        if not 0.0 < self.lam < float("inf"):
            raise SpftError(
                f"The loss's lam is {self.lam:g}; it must be positive and finite. The paper's "
                "relatives use 0.1 to 1.2."
            )
        if not 0.0 <= self.nll_weight < float("inf"):
            raise SpftError(f"The loss's nll_weight is {self.nll_weight:g}; it must be at least 0.")


def preference_loss(
    config: LossConfig,
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    reward: Tensor,
    weight: Tensor | None = None,
    *,
    check: bool = False,
) -> tuple[Tensor, Tensor, PairStatistics]:
    """Loss of each pair, ready to be summed.

    Arguments as in `spftcore.kernels.pair_loss`: logprobs and reference [N], cu_seqlens [S + 1],
    chosen, rejected, reward and weight [P].

    Returns (loss [P], kept [P] bool, statistics). A pair that is not kept has loss 0 and no
    gradient. The caller divides the sum over the global batch by the number of kept pairs (by the
    sum of their weights where there are weights), so that 1 x 8 equals 8 x 1.
    Raises `SpftError` for arguments that do not fit together.
    """
    rejected_scale = None if config.kind == "spft" else torch.ones_like(reward)
    if config.kind in ("exspin", "dpo"):
        kept = reward == 1
        weight = kept.to(reward.dtype) if weight is None else weight * kept
    else:
        kept = torch.ones_like(reward, dtype=torch.bool)
    loss, statistics = pair_loss(
        logprobs,
        reference,
        cu_seqlens,
        chosen,
        rejected,
        reward,
        weight,
        config.lam,
        rejected_scale=rejected_scale,
        nll_weight=config.nll_weight,
        check=check,
    )
    return loss, kept, statistics


def completion_nll(logprobs: Tensor, cu_seqlens: Tensor, *, check: bool = False) -> Tensor:
    """Negative log-likelihood of each completion, for supervised fine-tuning.

    logprobs: [N], token log-probs of S completions one after another; cu_seqlens: [S + 1].
    Returns [S], the sum over a completion's tokens; divide by N for the mean over tokens.
    Raises `SpftError` for an empty completion or borders that do not end at N.
    """
    return -sequence_sums(logprobs, cu_seqlens, check=check)
