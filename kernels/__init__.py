"""Log-probabilities and pair losses that never hold the logits of all tokens at once."""

from spftcore.kernels.head import linear_logprobs, linear_logprobs_reference
from spftcore.kernels.pairs import PairStatistics, pair_loss, pair_loss_reference, sequence_sums

__all__ = [
    "PairStatistics",
    "linear_logprobs",
    "linear_logprobs_reference",
    "pair_loss",
    "pair_loss_reference",
    "sequence_sums",
]
