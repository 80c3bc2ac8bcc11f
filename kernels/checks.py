"""Checks of kernel arguments: each failure says what is wrong, why it matters, and the remedy.

Shapes, dtypes and devices are checked on every call: they cost no device synchronisation. Values
(ranges, segment borders) are read only from tensors on the CPU, or where the caller passes
`check=True`, because reading a value from a GPU stops the host until the GPU has caught up. They
are read inside the operators, so that torch.compile neither sees nor drops them.
"""

import torch
from torch import Tensor

from spftcore.errors import SpftError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INDICES = (torch.int32, torch.int64)


def check_head(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    """Refuse arguments of `linear_logprobs` that do not fit together; raises `SpftError`."""
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise SpftError(
            f"hidden has shape {list(hidden.shape)} and weight {list(weight.shape)}; they must be "
            "[N, H] and [V, H] with the same H. Pick the completion tokens' hidden states first."
        )
    if targets.dim() != 1 or targets.shape[0] != hidden.shape[0]:
        raise SpftError(
            f"targets has shape {list(targets.shape)}, but hidden holds {hidden.shape[0]} tokens. "
            "Give one target id per row of hidden."
        )
    if targets.dtype not in _INDICES:
        raise SpftError(f"targets has dtype {targets.dtype}; token ids must be int64 or int32.")
    if hidden.dtype not in _FLOATS:
        raise SpftError(
            f"hidden has dtype {hidden.dtype}; give float16, bfloat16, float32 or float64."
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != hidden.dtype:
            raise SpftError(
                f"hidden is {hidden.dtype} but {name} is {tensor.dtype}. Cast one of them, or run "
                "under torch.autocast, which casts both."
            )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise SpftError(
            f"bias has shape {list(bias.shape)}; a head with {weight.shape[0]} rows needs "
            f"[{weight.shape[0]}]."
        )
    _same_device(hidden, weight=weight, targets=targets, bias=bias)


def check_targets(
    targets: Tensor, vocabulary: int, ignore_index: int | None, *, check: bool
) -> None:
    """Refuse targets outside [0, vocabulary) that are not `ignore_index`; raises `SpftError`."""
    if not targets.numel() or not _readable(targets, check):
        return
    low, high = (int(bound) for bound in torch.aminmax(targets))
    if low >= 0 and high < vocabulary:
        return
    unknown = (targets < 0) | (targets >= vocabulary)
    if ignore_index is not None:
        unknown &= targets != ignore_index
    if bool(unknown.any()):
        row = int(unknown.nonzero()[0])
        raise SpftError(
            f"targets reach from {low} to {high}, outside the vocabulary [0, {vocabulary}); the "
            f"first such is row {row}. Drop padding before the call, or name it as ignore_index."
        )


def check_segments(logprobs: Tensor, cu_seqlens: Tensor) -> None:
    """Refuse token log-probs or segment borders of a wrong shape, dtype or device."""
    if logprobs.dim() != 1 or logprobs.dtype not in _FLOATS:
        raise SpftError(
            f"logprobs has shape {list(logprobs.shape)} and dtype {logprobs.dtype}; give one "
            "floating-point value per completion token, [N]."
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype not in _INDICES:
        raise SpftError(
            f"cu_seqlens has shape {list(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}; give "
            "the S + 1 borders of S completions as int64 or int32."
        )
    _same_device(logprobs, cu_seqlens=cu_seqlens)


def check_borders(cu_seqlens: Tensor, tokens: int, *, check: bool) -> None:
    """Refuse segment borders that do not cut `tokens` tokens into non-empty completions."""
    if not _readable(cu_seqlens, check):
        return
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != tokens:
        raise SpftError(
            f"cu_seqlens runs from {first} to {last}, but there are {tokens} token log-probs. It "
            "must start at 0 and end at the number of tokens."
        )
    lengths = cu_seqlens.diff()
    if int(lengths.min()) <= 0:
        empty = int((lengths <= 0).nonzero()[0])
        raise SpftError(
            f"Completion {empty} is empty: cu_seqlens does not increase there. Every completion "
            "holds at least its end-of-sequence token."
        )


def check_pairs(
    logprobs: Tensor,
    reference: Tensor,
    cu_seqlens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    values: dict[str, Tensor | None],
) -> None:
    """Refuse arguments of `pair_loss` whose shapes, dtypes or devices do not fit together.

    `values` holds the per-pair floating-point arguments by name.
    """
    check_segments(logprobs, cu_seqlens)
    if reference.shape != logprobs.shape:
        raise SpftError(
            f"reference holds {reference.numel()} token log-probs, logprobs {logprobs.numel()}. "
            "Both models must score the same tokens."
        )
    if not reference.is_floating_point():
        raise SpftError(f"reference has dtype {reference.dtype}; log-probs are floating point.")
    if reference.requires_grad:
        raise SpftError(
            "reference requires a gradient, but the reference model is frozen. Compute it under "
            "torch.no_grad(), or detach it."
        )
    pairs = chosen.shape
    for name, index in (("chosen", chosen), ("rejected", rejected)):
        if index.dim() != 1 or index.shape != pairs or index.dtype not in _INDICES:
            raise SpftError(
                f"{name} has shape {list(index.shape)} and dtype {index.dtype}; chosen and "
                "rejected must both be [P], int64 or int32."
            )
    for name, value in values.items():
        if value is not None and (value.shape != pairs or not value.is_floating_point()):
            raise SpftError(
                f"{name} has shape {list(value.shape)} and dtype {value.dtype}; give one "
                f"floating-point number for each of the {pairs.numel()} pairs."
            )
        if value is not None and value.requires_grad:
            raise SpftError(
                f"{name} requires a gradient, but the loss is differentiable in logprobs alone. "
                "Detach it."
            )
    _same_device(logprobs, reference=reference, chosen=chosen, rejected=rejected, **values)


def check_pair_values(
    cu_seqlens: Tensor,
    tokens: int,
    chosen: Tensor,
    rejected: Tensor,
    values: dict[str, Tensor | None],
    *,
    check: bool,
) -> None:
    """Refuse values of `pair_loss` outside their ranges.

    `reward` and `rejected_scale` lie in [0, 1], `weight` is at least 0.
    """
    check_borders(cu_seqlens, tokens, check=check)
    if not chosen.numel():
        return
    sequences = cu_seqlens.shape[0] - 1
    for name, index in (("chosen", chosen), ("rejected", rejected)):
        if _readable(index, check):
            low, high = (int(bound) for bound in torch.aminmax(index))
            if low < 0 or high >= sequences:
                raise SpftError(
                    f"{name} names completions {low} to {high}, but there are {sequences}. It "
                    "indexes the segments of cu_seqlens."
                )
    for name, value in values.items():
        if value is not None and _readable(value, check):
            least, most = (float(bound) for bound in torch.aminmax(value))
            limit = float("inf") if name == "weight" else 1.0
            if not (least >= 0.0 and most <= limit):
                interval = "[0, inf)" if name == "weight" else "[0, 1]"
                raise SpftError(
                    f"{name} reaches from {least:g} to {most:g}; it must lie in {interval}. "
                    "A reward of 1 means that the answer's result differs from the gold's."
                )


def _readable(tensor: Tensor, check: bool) -> bool:
    return check or tensor.device.type == "cpu"


def _same_device(first: Tensor, **others: Tensor | None) -> None:
    for name, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            raise SpftError(
                f"{name} is on {tensor.device}, but the first argument is on {first.device}. Move "
                "all arguments to one device."
            )
