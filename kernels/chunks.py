"""A GPU's way through the head: chunks of rows, PyTorch's products, Triton's softmax between them.

Per chunk of rows: one product forms the logits, one kernel (logits_triton.py) turns them into
log-probs and, in the same memory, into d logprob / d u, one product projects that back. A chunk of
whole rows keeps the kernel free of any state between chunks, and each product large.
"""

import torch
from torch import Tensor

from spftcore.kernels.logits_triton import target_logprobs_
from spftcore.kernels.tiles import Head, even_slices


def chunked_logprobs_(
    logprobs: Tensor,
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    ignore_index: int | None,
    *,
    gradient: Tensor | None,
    kept: Tensor | None,
    chunk_bytes: int,
) -> None:
    """Write the log-probs [N] of targets [N] from hidden [N, H]; an ignored target has log-prob 0.

    gradient: [N, H], receives d logprob / d hidden, or None. kept: [N, V], receives
    d logprob / d u for `chunked_head_gradient_`, or None. chunk_bytes bounds one chunk's logits,
    where they are not kept.
    """
    chunks, buffer = _cut(head, hidden, kept, chunk_bytes)
    for part in chunks:
        logits = _logits(head, hidden[part], buffer)
        wanted = gradient is not None or kept is not None
        logprobs[part] = target_logprobs_(logits, targets[part], head.cap, wanted, ignore_index)
        if gradient is not None:
            torch.mm(logits, head.weight, out=gradient[part])
            if head.alpha != 1.0:
                gradient[part].mul_(head.alpha)


def chunked_head_gradient_(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    ignore_index: int | None,
    coefficient: Tensor,
    *,
    kept: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    chunk_bytes: int,
) -> None:
    """Write the gradients of weight [V, H] and bias [V], for d loss / d logprob = coefficient [N].

    kept: from `chunked_logprobs_` (one product here), or None (two: the logits are formed again).
    """
    chunks, buffer = _cut(head, hidden, kept, chunk_bytes)
    total, bias_total = grad_weight, None
    if grad_weight is not None and len(chunks) != 1:
        # Summed over chunks in fp32, so that half precision does not round once per chunk.
        total = torch.zeros_like(grad_weight, dtype=torch.float32)
    if grad_bias is not None:
        bias_total = torch.zeros_like(grad_bias, dtype=torch.float32)
    for part in chunks:
        if kept is None:
            logits = _logits(head, hidden[part], buffer)
            target_logprobs_(logits, targets[part], head.cap, True, ignore_index)
        else:
            logits = kept
        scale = coefficient[part].float() * head.alpha
        if total is not None:
            # The coefficient joins the narrow side [n, H], not the wide one [n, V].
            narrow = hidden[part] * scale[:, None]
            if ignore_index is not None:  # an ignored hidden state may hold anything, even NaN
                narrow = narrow.masked_fill_((targets[part] == ignore_index)[:, None], 0.0)
            _add_outer(total, logits, narrow.to(hidden.dtype), first=part.start == 0)
        if bias_total is not None:
            bias_total += torch.mv(logits.t(), scale.to(logits.dtype))
    if grad_weight is not None and total is not None and total is not grad_weight:
        grad_weight.copy_(total)
    if grad_bias is not None and bias_total is not None:
        grad_bias.copy_(bias_total)


def _cut(
    head: Head, hidden: Tensor, kept: Tensor | None, chunk_bytes: int
) -> tuple[list[slice], Tensor]:
    """The chunks of rows, and memory for the logits of the largest."""
    rows, vocabulary = len(hidden), head.weight.shape[0]
    if kept is not None:
        return even_slices(rows, max(1, rows)), kept
    chunks = even_slices(rows, max(1, chunk_bytes // (vocabulary * hidden.element_size())))
    return chunks, hidden.new_empty((chunks[0].stop if chunks else 0, vocabulary))


def _logits(head: Head, hidden: Tensor, buffer: Tensor) -> Tensor:
    """u = alpha (h W^T + b) in the buffer's first rows."""
    logits = buffer[: len(hidden)]
    weight, alpha = head.weight.t(), head.alpha
    if head.bias is not None:
        torch.addmm(head.bias, hidden, weight, beta=alpha, alpha=alpha, out=logits)
    elif alpha != 1.0:
        torch.addmm(logits, hidden, weight, beta=0.0, alpha=alpha, out=logits)
    else:
        torch.mm(hidden, weight, out=logits)
    return logits


def _add_outer(total: Tensor, logits: Tensor, narrow: Tensor, *, first: bool) -> None:
    """total [V, H] += logits^T narrow, or = where `first`; total may be wider than the factors."""
    if total.dtype != logits.dtype:
        product = torch.mm(logits.t(), narrow, out_dtype=total.dtype)
        total.copy_(product) if first else total.add_(product)
    else:
        torch.addmm(total, logits.t(), narrow, beta=0.0 if first else 1.0, out=total)
