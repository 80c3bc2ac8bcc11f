"""The CPU's way through the head: tiles of rows x vocabulary that stay in the cache.

For a block of rows h [n, H] and a tile of the vocabulary W_k [v, H]:

    E_k = exp(h W_k^T - m), its entry at the target set to 0
    rest += sum E_k          back += E_k W_k

m, one number a row, is at first the larger of the first tile's maximum and the target's logit z_t
(a dot product of its own). Where a later tile passes m by more than 8, m moves there and rest and
back shrink, as in an online softmax; below that nothing overflows and no digit is lost, and a move
is rare. After the last tile, with total = rest + exp(z_t - m):

    logprob = -log(1 + rest / exp(z_t - m))       1 - p_t = rest / total
    d logprob / d h = (1 - p_t) W_t - back / total

Per logit one maximum, subtraction, exponential and addition, all in the cache; W_k comes from
memory once for both products; nothing of [N, V] is ever stored. Leaving the target out of the sum
keeps the digits of a confident one, where log_softmax returns 0 and 1 - p_t cancels.

Sizes. 512 rows x 1,024 columns are 2 MiB of fp32, within a core's share of the last-level cache.
512 rows do 4 * 512 = 2,048 operations per weight read, 512 a byte, where a core at 80 GFLOP/s and
10 GB/s needs 8. W_k holds at most 2 Mi weights, because half precision is widened there: 8 MiB.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spftcore.kernels.dispatch import accurate

_TILE_BYTES = 2 * 1024**2
_TILE_WEIGHTS = 2 * 1024**2
_TILE_ROWS = 512
_MOVE = 8.0  # exp(8) = 2,981: sums stay small, and so do the arguments' rounding errors

# softplus(x) = x + log1p(exp(-x)); PyTorch cuts the second term at 20, where it is still 2e-9 and
# so visible in fp64. At 40 it is below the last digit there too.
_SOFTPLUS_LINEAR = 40.0


@dataclass(frozen=True)
class Head:
    """How hidden states become logits: u = alpha (h W^T + b), z = cap tanh(u), or z = u."""

    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    alpha: float
    cap: float | None


def even_slices(total: int, most: int) -> list[slice]:
    """Cut `total` into the fewest slices of at most `most`, as even as possible."""
    count = -(-total // most)
    step = -(-total // count) if count else 1
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def tiled_logprobs_(
    logprobs: Tensor,
    sums: Tensor | None,
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    *,
    gradient: Tensor | None,
    kept: Tensor | None,
    chunk_bytes: int,
) -> None:
    """Write the log-probs [N] of targets [N] in [0, V) from hidden [N, H].

    Where they are not None, sums [3, N] receives each row's m, rest and 1 / total, which
    `tiled_head_gradient_` starts from; gradient [N, H] receives d logprob / d hidden; and kept
    [N V] each row's exponentials, tile by tile. chunk_bytes bounds one tile of logits.
    """
    plan = _Plan(head, hidden, chunk_bytes)
    buffer = plan.tile_buffer() if kept is None else None
    for part in plan.rows:
        own = None if kept is None else plan.kept_tiles(kept, part)
        if len(plan.columns) == 1 and plan.vocabulary > 1:
            z = plan.tile(buffer, own, part.stop - part.start, 0)
            part_gradient = None if gradient is None else gradient[part]
            logprobs[part], reference, missing = _one_tile(
                plan, hidden[part], targets[part], z, part_gradient, kept is not None
            )
            if sums is not None:
                sums[0, part], sums[1, part], sums[2, part] = reference, 1.0, missing
            continue
        block = _Block(plan, hidden[part], targets[part], gradient is not None)
        back = block.sweep(buffer, own)
        at_target = (block.target_logit - block.reference).exp_()
        total = block.rest + at_target
        odds = block.rest.log() + (block.reference - block.target_logit)
        logprobs[part] = -F.softplus(odds, threshold=_SOFTPLUS_LINEAR)
        factor = total.reciprocal()
        if gradient is not None and back is not None and block.target_weight is not None:
            missing = block.rest / total
            if block.target_slope is not None:
                missing *= block.target_slope
            back.mul_((factor * -head.alpha)[:, None])
            back.addcmul_(block.target_weight, missing[:, None], value=head.alpha)
            gradient[part] = back
        if sums is not None:
            sums[0, part], sums[1, part], sums[2, part] = block.reference, block.rest, factor


def _one_tile(
    plan: "_Plan",
    hidden: Tensor,
    targets: Tensor,
    z: Tensor,
    gradient: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows whose whole vocabulary is one tile z [n, V]: log-probs, m and 1 - p_t, each [n].

    Nothing is known before the tile, and nothing must be carried to the next one, so PyTorch's
    softmax does it in one go: over the logits without the target's, q = softmax(z_v, v != t). Its
    largest entry gives their log-sum-exp, m = max z - log max q. With odds = m - z_t,

        logprob = -softplus(odds)    1 - p_t = sigmoid(odds)    d logprob / d z = (1 - p_t)(e_t - q)
    """
    weight = plan.head.weight.to(plan.operand)
    column = targets.long()[:, None]
    slope = plan.logits_(
        z, hidden.to(plan.operand), slice(None), weight, gradient is not None or keep
    )
    target_logit = z.gather(1, column)[:, 0]
    z.scatter_(1, column, -math.inf)
    reference = z.amax(dim=1)
    torch.softmax(z, 1, out=z)
    reference -= z.amax(dim=1).log_()
    odds = reference - target_logit
    logprobs = F.softplus(odds, threshold=_SOFTPLUS_LINEAR).neg_()
    missing = odds.sigmoid_()
    if gradient is not None or keep:
        z.scatter_(1, column, -1.0)
        if slope is not None:
            z.mul_(slope)
    if gradient is not None:
        direct = gradient.dtype == plan.dtype == plan.operand
        back = gradient if direct else z.new_empty(gradient.shape)
        plan.add_product(back, z, weight, first=True)
        torch.mul(back, (missing * -plan.head.alpha)[:, None], out=back)
        if not direct:
            gradient.copy_(back)
    return logprobs, reference, missing


def tiled_head_gradient_(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    coefficient: Tensor,
    sums: Tensor,
    *,
    kept: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    chunk_bytes: int,
) -> None:
    """Write the gradients of weight [V, H] and bias [V], for d loss / d logprob = coefficient [N].

    sums, kept: from `tiled_logprobs_`; one product with kept, or two: the logits are formed again.
    A tile of the vocabulary meets all rows before the next tile, so that its sum over rows is
    complete, in fp32, before it is rounded to the weight's dtype.
    """
    plan = _Plan(head, hidden, chunk_bytes)
    weight = head.weight
    scales = coefficient.to(plan.dtype) * sums[2] * -head.alpha
    blocks: list[_Block | None] = [None] * len(plan.rows)
    if kept is None:
        blocks = [_Block(plan, hidden[rows], targets[rows], False) for rows in plan.rows]
    buffer = plan.tile_buffer() if kept is None else None
    for index, columns in enumerate(plan.columns):
        width = columns.stop - columns.start
        total = weight.new_zeros((width, weight.shape[1]), dtype=plan.dtype)
        bias_total = weight.new_zeros(width, dtype=plan.dtype)
        for part, block in zip(plan.rows, blocks, strict=True):
            own = None if kept is None else plan.kept_tiles(kept, part)
            z = plan.tile(buffer, own, part.stop - part.start, index)
            if block is not None:
                block.exponentials(z, index, *sums[:2, part])
            if grad_weight is not None:
                # The coefficient joins the narrow side [n, H], not the wide one [n, v].
                narrow = hidden[part].to(plan.dtype) * scales[part, None]
                plan.add_product(total, z.t(), narrow.to(plan.operand), first=part.start == 0)
            if grad_bias is not None:
                bias_total.addmv_(z.t(), scales[part])
        if grad_weight is not None:
            grad_weight[columns] = total
        if grad_bias is not None:
            grad_bias[columns] = bias_total


class _Plan:
    """Which rows and columns make a tile, and in which dtypes the work is done."""

    def __init__(self, head: Head, hidden: Tensor, chunk_bytes: int) -> None:
        self.head = head
        self.tokens, width = hidden.shape
        self.vocabulary = head.weight.shape[0]
        self.dtype = accurate(hidden.dtype)
        # Half precision is widened, except where the processor multiplies bf16 itself (and fp16
        # never: exponentials relative to the target's pass its 65,504).
        self.operand = hidden.dtype if _multiplies(hidden.dtype) else self.dtype
        elements = max(1, min(_TILE_BYTES, chunk_bytes) // self.dtype.itemsize)
        most_rows = math.isqrt(elements)
        if self.vocabulary * 128 <= elements and self.vocabulary * width <= _TILE_WEIGHTS:
            most_rows = elements // self.vocabulary  # a small vocabulary is one tile: see _one_tile
        self.rows = even_slices(self.tokens, min(_TILE_ROWS, most_rows))
        self.most_rows = max((part.stop - part.start for part in self.rows), default=1)
        most = max(1, min(elements // self.most_rows, _TILE_WEIGHTS // max(1, width)))
        self.columns = even_slices(self.vocabulary, most)
        self._empty = hidden.new_empty(0, dtype=self.dtype)

    def tile_buffer(self) -> Tensor:
        return self._empty.new_empty(self.most_rows * self.columns[0].stop)

    def kept_tiles(self, kept: Tensor, part: slice) -> Tensor:
        """The exponentials of rows `part`, one tile after another: [n V]."""
        return kept[part.start * self.vocabulary : part.stop * self.vocabulary]

    def tile(self, buffer: Tensor | None, kept: Tensor | None, rows: int, index: int) -> Tensor:
        """Tile `index` of some rows [n, v]: its place in their kept memory, or the one buffer."""
        columns = self.columns[index]
        width = columns.stop - columns.start
        if kept is not None:
            return kept[rows * columns.start : rows * columns.stop].view(rows, width)
        assert buffer is not None
        return buffer[: rows * width].view(rows, width)

    def logits_(
        self, z: Tensor, hidden: Tensor, columns: slice, tile_weight: Tensor, gradient: bool
    ) -> Tensor | None:
        """z [n, v] = the logits; returns dz/du [n, v] where there is a cap and a gradient."""
        alpha, cap = self.head.alpha, self.head.cap
        bias = None if self.head.bias is None else self.head.bias[columns].to(z.dtype)
        if z.dtype != hidden.dtype:
            z.copy_(torch.mm(hidden, tile_weight.t()))
            if bias is not None:
                z.add_(bias)
            z.mul_(alpha)
        elif bias is not None:
            torch.addmm(bias, hidden, tile_weight.t(), beta=alpha, alpha=alpha, out=z)
        elif alpha != 1.0:
            torch.addmm(z, hidden, tile_weight.t(), beta=0.0, alpha=alpha, out=z)
        else:
            torch.mm(hidden, tile_weight.t(), out=z)
        if cap is None:
            return None
        z.tanh_()
        slope = torch.addcmul(z.new_full((), cap), z, z, value=-cap) if gradient else None
        z.mul_(cap)
        return slope

    def add_product(self, total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
        """total += left right, or = where `first`; left is narrowed to the operands' dtype."""
        if self.operand == self.dtype and first:
            torch.mm(left, right, out=total)
        elif self.operand == self.dtype:
            torch.addmm(total, left, right, out=total)
        else:
            product = torch.mm(left.to(self.operand), right)
            total.copy_(product) if first else total.add_(product)


class _Block:
    """Some rows of hidden states and what is known of their targets before the first tile."""

    def __init__(self, plan: _Plan, hidden: Tensor, targets: Tensor, project: bool) -> None:
        head = plan.head
        self.plan = plan
        self.rows = slice(0, len(targets))
        self.targets = targets.long()
        self.hidden = hidden.to(plan.operand)
        target_weight = head.weight[self.targets].to(plan.dtype)
        self.target_weight = target_weight if project else None
        logit = torch.linalg.vecdot(hidden.to(plan.dtype), target_weight)
        if head.bias is not None:
            logit = logit + head.bias[self.targets]
        logit = logit * head.alpha
        self.target_slope = None
        if head.cap is not None:
            logit = logit.tanh_()
            self.target_slope = head.cap * (1.0 - logit * logit)
            logit = logit * head.cap
        self.target_logit = logit

    def sweep(self, buffer: Tensor | None, kept: Tensor | None) -> Tensor | None:
        """Form all tiles: `rest` and `reference` [n]; returns `back` [n, H] if rows project."""
        rows, width = self.hidden.shape
        self.rest = torch.zeros_like(self.target_logit)
        back = None if self.target_weight is None else self.rest.new_zeros(rows, width)
        for index, columns in enumerate(self.plan.columns):
            z = self.plan.tile(buffer, kept, rows, index)
            tile_weight = self.plan.head.weight[columns].to(self.plan.operand)
            slope = self.plan.logits_(
                z, self.hidden, columns, tile_weight, back is not None or kept is not None
            )
            top = torch.maximum(self.target_logit, z.amax(dim=1))
            if index == 0:
                self.reference = top
            elif bool((top > self.reference + _MOVE).any()):
                higher = torch.maximum(self.reference, top)
                shrink = (self.reference - higher).exp_()[:, None]
                self.rest *= shrink[:, 0]
                if back is not None:
                    back *= shrink
                for earlier in range(index if kept is not None else 0):
                    self.plan.tile(buffer, kept, rows, earlier).mul_(shrink)
                self.reference = higher
            z.sub_(self.reference[:, None]).exp_()
            self._set_target(z, index, None)
            self.rest += z.sum(dim=1)
            if slope is not None:
                z.mul_(slope)
            if back is not None:
                self.plan.add_product(back, z, tile_weight, first=index == 0)
        if kept is not None:
            value = -self.rest if self.target_slope is None else -self.rest * self.target_slope
            for index in range(len(self.plan.columns)):
                self._set_target(self.plan.tile(buffer, kept, rows, index), index, value)
        return back

    def exponentials(self, z: Tensor, index: int, reference: Tensor, rest: Tensor) -> None:
        """Form tile `index` again: z [n, v] = -total d logprob / d u, as `kept` holds it."""
        columns = self.plan.columns[index]
        tile_weight = self.plan.head.weight[columns].to(self.plan.operand)
        slope = self.plan.logits_(z, self.hidden, columns, tile_weight, True)
        z.sub_(reference[:, None]).exp_()
        self._set_target(z, index, -rest)
        if slope is not None:
            z.mul_(slope)

    def _set_target(self, z: Tensor, index: int, value: Tensor | None) -> None:
        """Write value [n] (None: zeros) at the targets that lie in tile `index`."""
        column = self.targets[:, None] - self.plan.columns[index].start
        new = torch.zeros_like(z[:, :1]) if value is None else value[:, None]
        if len(self.plan.columns) > 1:
            # Every row writes, so that nobody must count the targets; the others their old value.
            inside = (column >= 0) & (column < z.shape[1])
            column = column.clamp(0, z.shape[1] - 1)
            new = torch.where(inside, new, z.gather(1, column))
        z.scatter_(1, column, new)


@functools.cache
def _multiplies(dtype: torch.dtype) -> bool:
    """Whether the processor multiplies matrices of this half-precision dtype by itself.

    Where it does not, PyTorch's bf16 product took 6.4 times the fp32 one, and 4.3 times the fp32
    one of widened factors (256 x 896 x 8,000, one thread of an EPYC with AVX2).
    """
    return dtype == torch.bfloat16 and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
