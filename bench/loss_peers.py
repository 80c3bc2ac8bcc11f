"""Who else computes a preference loss from hidden states: plain PyTorch, Liger, CCE, TRL.

Every provider maps the same (hidden [N, H], head [V, H], targets [N]) to the same mean DPO-shaped
loss over pairs of sequences of T tokens, golds first: log(1 + exp(-beta (a - b))), a and b the
sums of the sequences' token log-probs. The reference's log-probs are 0, which costs nobody
anything and changes no gradient's price.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spftcore.kernels import linear_logprobs, pair_loss

# So small that a rounded margin of random logits does not move the gradient's coefficients, which
# would make the errors against fp64 a matter of luck.
BETA = 0.01
CHECKPOINT_BYTES = 512 * 1024**2  # fp32 logits of one chunk: at V = 152,064, 882 rows
LIGER_TOKENS = 2048  # of one chunk, where Liger does not take its default of one pair

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # hidden, head, targets, T -> scalar


@dataclass(frozen=True)
class Provider:
    """A name, the package it needs (None: nothing beside PyTorch), and its loss."""

    name: str
    package: str | None
    loss: Loss

    def missing(self) -> bool:
        return self.package is not None and importlib.util.find_spec(self.package) is None


def of_pairs(logprobs: Tensor, tokens: int) -> Tensor:
    """Mean loss from token log-probs [N], by plain PyTorch: how all but ours and Liger end."""
    chosen, rejected = logprobs.float().view(-1, tokens).sum(1).chunk(2)
    return F.softplus(-BETA * (chosen - rejected)).mean()


def ours(hidden: Tensor, head: Tensor, targets: Tensor, tokens: int) -> Tensor:
    logprobs = linear_logprobs(hidden, head, targets)
    sequences = len(targets) // tokens
    borders = torch.arange(0, len(targets) + 1, tokens, device=hidden.device)
    chosen = torch.arange(sequences // 2, device=hidden.device)
    reward = torch.ones(sequences // 2, device=hidden.device)
    loss, _ = pair_loss(
        logprobs,
        torch.zeros_like(logprobs),
        borders,
        chosen,
        chosen + sequences // 2,
        reward,
        None,
        BETA,
    )
    return loss.mean()


def plain(hidden: Tensor, head: Tensor, targets: Tensor, tokens: int) -> Tensor:
    return of_pairs(_plain_logprobs(hidden, head, targets), tokens)


def _plain_logprobs(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logprobs = F.log_softmax(F.linear(hidden, head).float(), dim=-1)
    return logprobs.gather(1, targets[:, None])[:, 0]


def checkpointed(hidden: Tensor, head: Tensor, targets: Tensor, tokens: int) -> Tensor:
    rows = max(1, CHECKPOINT_BYTES // (4 * len(head)))
    parts = [
        checkpoint(
            _plain_logprobs,
            hidden[start : start + rows],
            head,
            targets[start : start + rows],
            use_reentrant=False,
        )
        for start in range(0, len(hidden), rows)
    ]
    return of_pairs(torch.cat(parts), tokens)


def liger(*, whole_chunks: bool) -> Loss:
    def loss(hidden: Tensor, head: Tensor, targets: Tensor, tokens: int) -> Tensor:
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

        pairs = max(1, LIGER_TOKENS // (2 * tokens)) if whole_chunks else 1
        module = LigerFusedLinearDPOLoss(
            beta=BETA,
            compiled=hidden.is_cuda,
            use_ref_model=False,
            average_log_prob=False,
            chunk_size=pairs,
        )
        states = hidden.view(-1, tokens, hidden.shape[1])
        value: Tensor = module(head, states, targets.view(-1, tokens))[0]
        return value

    return loss


def cut_cross_entropy(*, filtered: bool) -> Loss:
    def loss(hidden: Tensor, head: Tensor, targets: Tensor, tokens: int) -> Tensor:
        from cut_cross_entropy import linear_cross_entropy

        nll = linear_cross_entropy(
            hidden,
            head,
            targets,
            reduction="none",
            filter_eps="high" if filtered else None,
            impl="cce" if hidden.is_cuda else "torch_compile",
        )
        return of_pairs(-nll, tokens)

    return loss


def trl(hidden: Tensor, head: Tensor, targets: Tensor, tokens: int) -> Tensor:
    # What its DPOTrainer calls through `add_fused_lm_head`, with that function's chunk size.
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    logprobs, *_ = ChunkedLogProbFunction.apply(
        hidden, head, None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs",)
    )
    return of_pairs(logprobs, tokens)


def providers(device: str) -> list[Provider]:
    """All of them; on the CPU CCE has one implementation, without Triton and without its filter."""
    found = [
        Provider("ours", None, ours),
        Provider("plain", None, plain),
        Provider("checkpointed", None, checkpointed),
        Provider("liger", "liger_kernel", liger(whole_chunks=False)),
        Provider(f"liger, {LIGER_TOKENS} tokens", "liger_kernel", liger(whole_chunks=True)),
        Provider("trl", "trl", trl),
    ]
    if device == "cuda":
        found.append(Provider("cce", "cut_cross_entropy", cut_cross_entropy(filtered=True)))
        unfiltered = cut_cross_entropy(filtered=False)
        found.append(Provider("cce, no filter", "cut_cross_entropy", unfiltered))
    else:
        unfiltered = cut_cross_entropy(filtered=False)
        found.append(Provider("cce, torch_compile", "cut_cross_entropy", unfiltered))
    return found


def versions() -> dict[str, str]:
    """Versions of the packages behind the providers; 'not installed' where there is none."""
    found = {}
    for package in ("torch", "triton", "liger-kernel", "cut-cross-entropy", "trl", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
