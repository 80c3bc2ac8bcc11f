"""Groups into rows: `[prompt | y1 | y2 …]`, several groups to a row, what each token may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spftcore.training.groups import Group

PADDING = -1  # the group that padding belongs to


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """G groups with S completions of N tokens in all, in R rows of T tokens.

    Attributes:
        input_ids: [R, T] int64.
        position_ids: [R, T] int64; they start at 0 with each prompt and go on from its end in each
            of its completions; 0 in padding.
        group: [R, T] int32, the number of the group a token belongs to, -1 for padding.
        branch: [R, T] int32, 0 in the prompt, 1 in the first completion, 2 in the second …
        positions: [N] int64, where in the flattened [R · T] stands the token whose hidden state
            predicts each completion token. The first tokens of all completions of a group are
            predicted by one token, the last of the prompt.
        targets: [N] int64, the completion tokens, in the order the groups were given in.
        cu_seqlens: [S + 1] int64, borders of the completions in targets.
        causal: each row holds one sequence (with padding behind): the model's own causal mask is
            the right one.
        spans: where all groups stand in one row without padding: (tokens of the prompt, tokens of
            the group) of each, from left to right; else empty.
    """

    input_ids: Tensor
    position_ids: Tensor
    group: Tensor
    branch: Tensor
    positions: Tensor
    targets: Tensor
    cu_seqlens: Tensor
    causal: bool
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RowCost:
    """What a row of T tokens costs: linear · T + quadratic · T² (in one arbitrary unit).

    The linear part is the matrix products of the layers. The quadratic part is attention that
    computes all of a row's T² scores, the masked ones included, as SDPA with a mask does.

    Attributes:
        linear: of a token.
        quadratic: of a pair of tokens.
        call: of one more call of attention in every layer.
    """

    linear: float
    quadratic: float
    call: float = 0.0

    def rows(self, rows: int, length: int, *, causal: bool) -> float:
        """Rows in one call of attention, with a mask unless all are causal."""
        scores = length * length * (causal_share(length) if causal else 1.0)
        return rows * (self.linear * length + self.quadratic * scores)

    def parts(self, groups: Sequence[Group]) -> float:
        """Groups end to end, where attention is called for each prompt and for what follows it."""
        total = 0.0
        for group in groups:
            prompt, length = len(group.prompt), len(group)
            if len(group.completions) == 1:
                scores, calls = length * length * causal_share(length), 1
            else:
                scores = prompt * prompt * causal_share(prompt) + (length - prompt) * length
                calls = 2
            total += self.linear * length + self.quadratic * scores + self.call * calls
        return total


def causal_share(length: int) -> float:
    """The share of T² scores that SDPA computes for a causal row: it skips blocks of 512 keys."""
    return min(1.0, 0.5 + 256 / length)


def assign(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Puts items into as few rows as first-fit decreasing needs, the rows then levelled.

    Args:
        lengths: of the items.
        capacity: tokens of a row; an item that is longer gets a row of its own.

    Returns:
        The items of each row by their index. The same lengths in the same order give the same rows.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    first_fit: list[list[int]] = []
    filled: list[int] = []
    for i in order:
        row = next((r for r, used in enumerate(filled) if used + lengths[i] <= capacity), None)
        if row is None:
            first_fit.append([])
            filled.append(0)
            row = len(filled) - 1
        first_fit[row].append(i)
        filled[row] += lengths[i]
    # As many rows as before, but each item to the row that is shortest so far: all rows are padded
    # to the longest, which is where levelling saves.
    level: list[list[int]] = [[] for _ in first_fit]
    load = [0] * len(first_fit)
    for i in order:
        row = load.index(min(load))
        level[row].append(i)
        load[row] += lengths[i]
    return level if max(load, default=0) < max(filled, default=0) else first_fit


def choose_rows(groups: Sequence[Group], cost: RowCost, budget: int) -> list[list[int]]:
    """The cheapest of several ways to put groups into rows.

    A longer row wastes less padding but computes more scores between groups that never see each
    other. A worked number, for a Qwen2 of 16 M parameters (8 layers of width 256: quadratic is
    linear / 710, see `attention.row_cost`) and pairs of 690 tokens: one pair a row costs
    690 · (1 + 690/710) = 1,361 a pair in units of a token's linear part, two in a row
    690 · (1 + 1,380/710) = 2,031, half as much again for nothing. But one pair of 690 and four of
    150 tokens are five rows of 690 = 6,803 one by one, and two rows = 2,721 with the four short
    ones together. (Measured on one layer of that width: two a row +28 % where +33 % is predicted,
    the mixed batch packed 0.40 of one by one where it is 0.40.)

    Args:
        groups: what is to be computed in one forward pass.
        cost: of the model on its device.
        budget: longest row tried, in tokens (a longer group still gets its row).
    """
    lengths = [len(group) for group in groups]
    longest, total = max(lengths), sum(lengths)
    separate = all(len(group.completions) == 1 for group in groups)
    tried = [[[i] for i in range(len(groups))]]
    capacity = longest
    while True:
        tried.append(assign(lengths, capacity))
        if capacity >= min(budget, total):
            break
        capacity = min(capacity + (capacity + 1) // 2, max(longest, min(budget, total)))

    def price(rows: list[list[int]]) -> float:
        length = max(sum(lengths[i] for i in row) for row in rows)
        causal = separate and all(len(row) == 1 for row in rows)
        return cost.rows(len(rows), length, causal=causal)

    return min(tried, key=price)


def pack(
    groups: Sequence[Group],
    rows: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
    *,
    multiple: int = 1,
) -> PackedBatch:
    """Builds a batch on `device`.

    Args:
        groups: in the order their completions shall have in `targets`.
        rows: which groups each row holds, by index; every group stands in one row.
        pad_id: what fills the rows up.
        device: where the tensors go.
        multiple: rows are padded to a multiple of so many tokens.
    """
    longest = max(sum(len(groups[i]) for i in row) for row in rows)
    length = -(-longest // multiple) * multiple
    ids: list[list[int]] = []
    place: list[list[int]] = []
    member: list[list[int]] = []
    branch: list[list[int]] = []
    predictors: list[list[int]] = [[] for _ in groups]
    for number, row in enumerate(rows):
        row_ids: list[int] = []
        row_place: list[int] = []
        row_member: list[int] = []
        row_branch: list[int] = []
        for index in row:
            group = groups[index]
            start = len(group.prompt)
            row_ids += group.prompt
            row_place += range(start)
            row_branch += [0] * start
            last_of_prompt = number * length + len(row_ids) - 1
            for turn, completion in enumerate(group.completions, 1):
                first = number * length + len(row_ids)
                row_ids += completion
                row_place += range(start, start + len(completion))
                row_branch += [turn] * len(completion)
                predictors[index].append(last_of_prompt)
                predictors[index] += range(first, first + len(completion) - 1)
            row_member += [index] * len(group)
        padding = length - len(row_ids)
        ids.append(row_ids + [pad_id] * padding)
        place.append(row_place + [0] * padding)
        member.append(row_member + [PADDING] * padding)
        branch.append(row_branch + [0] * padding)
    targets: list[int] = []
    borders = [0]
    for group in groups:
        for completion in group.completions:
            targets += completion
            borders.append(len(targets))
    spans = tuple((len(groups[i].prompt), len(groups[i])) for i in rows[0])
    positions = [position for group in predictors for position in group]
    return PackedBatch(
        input_ids=torch.tensor(ids, device=device),
        position_ids=torch.tensor(place, device=device),
        group=torch.tensor(member, dtype=torch.int32, device=device),
        branch=torch.tensor(branch, dtype=torch.int32, device=device),
        positions=torch.tensor(positions, device=device),
        targets=torch.tensor(targets, device=device),
        cu_seqlens=torch.tensor(borders, device=device),
        causal=all(len(row) == 1 and len(groups[row[0]].completions) == 1 for row in rows),
        spans=spans if len(rows) == 1 and length == longest else (),
    )
