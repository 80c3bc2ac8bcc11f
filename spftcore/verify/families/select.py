"""Which candidate variants are worth keeping: those that tell mutants from their golds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spftcore.verify.executor import Executor
from spftcore.verify.families.golds import Gold
from spftcore.verify.families.mutants import KINDS, Mutant, mutants, stability_probes
from spftcore.verify.families.schema import Schema
from spftcore.verify.families.values import Space, draw_profile
from spftcore.verify.families.variants import CannotFill, write_variant
from spftcore.verify.outcomes import Judgement, Limits, Status, Verdict

# Small, because a variant is small: what takes longer is a product of tables without a condition,
# and a smaller variant shows it. A large original then separates less than it could, which costs
# nothing but a variant. The clock must not decide, or families would differ by machine.
SELECTION_LIMITS = Limits(steps=500_000, seconds=60.0)

ROUND = 8  # candidates compared with each other
KEPT_PER_ROUND = 3
ROUNDS_WITHOUT_GAIN = 2

# What the first, second, ... file that separates a mutant is worth: the first catches it, the
# others its relatives, which nobody has thought of. The same for files on which a gold has rows.
WORTH = (8, 4, 2, 1)

_BROKEN = (Status.SYNTAX_ERROR, Status.MISSING_NAME, Status.SQL_ERROR, Status.DENIED)


@dataclass
class Case:
    """A gold with its mutants, and the rewritings that show where its result is chance."""

    gold: Gold
    mutants: list[Mutant]
    probes: list[str]
    separated: Counter[int] = field(default_factory=Counter)  # mutant -> files
    by_original: set[int] = field(default_factory=set)
    filled: int = 0  # kept variants on which the gold is determined and has rows


@dataclass(frozen=True)
class Kept:
    """A variant that stays: its file, rows by table, and the golds it must not judge."""

    file: Path
    rows: dict[str, int]
    separated: int
    unfit: tuple[int, ...]


@dataclass
class _View:
    """What one file says: separated mutants by case, unfit cases, cases with rows.

    `broken` are the mutants, by case, that no data could make run.
    """

    separated: dict[int, list[int]] = field(default_factory=dict)
    unfit: list[int] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    broken: dict[int, set[int]] = field(default_factory=dict)


def make_cases(
    golds: Sequence[Gold], schema: Schema, space: Space, kinds: Collection[str] = KINDS
) -> list[Case]:
    """Golds with their probes and their mutants of some kinds; others may be held out."""
    return [
        Case(
            gold,
            [mutant for mutant in mutants(gold, schema, space) if mutant.kind in kinds],
            stability_probes(gold, schema),
        )
        for gold in golds
    ]


def look(executor: Executor, file: Path, cases: Sequence[Case], wanted: list[list[int]]) -> _View:
    """Judge on one file the probes of each case and those of its mutants that are wanted."""
    items = [
        (file, case.gold.sql, [*case.probes, *(case.mutants[i].sql for i in chosen)])
        for case, chosen in zip(cases, wanted, strict=True)
    ]
    view = _View()
    for number, judgements in enumerate(executor.verify(items)):
        case, chosen = cases[number], wanted[number]
        probes, rest = judgements[: len(case.probes)], judgements[len(case.probes) :]
        view.broken[number] = {
            i for i, j in zip(chosen, rest, strict=True) if j.candidate.status in _BROKEN
        }
        gold = (judgements[0].gold,) if judgements else ()
        if not gold or not gold[0].ran or any(map(differs, probes)):
            view.unfit.append(number)
            continue
        if gold[0].status == Status.OK:
            view.filled.append(number)
        view.separated[number] = [
            i for i, judgement in zip(chosen, rest, strict=True) if differs(judgement)
        ]
    return view


def differs(judgement: Judgement) -> bool:
    """Whether a candidate ran and gave another result: a failure would say nothing of the data."""
    return judgement.verdict == Verdict.WRONG and judgement.candidate.ran


def choose(
    executor: Executor,
    source: Path,
    folder: Path,
    schema: Schema,
    space: Space,
    cases: list[Case],
    *,
    seed: str,
    variants: int,
) -> list[Kept]:
    """Write candidates into `folder` and keep greedily those that separate the most.

    Args:
        executor: judges; its limits should be `SELECTION_LIMITS`.
        source: the original file, which counts as the first of the family.
        folder: where the files go; candidates that are not kept are deleted again.
        seed: text that decides every draw.
        variants: the most files kept.

    Raises:
        CannotFill: no candidate of the first round could be written.
    """
    everything = [list(range(len(case.mutants))) for case in cases]
    broken = look(executor, source, cases, everything).broken
    for number, case in enumerate(cases):
        case.mutants = [m for i, m in enumerate(case.mutants) if i not in broken[number]]
    everything = [list(range(len(case.mutants))) for case in cases]
    view = look(executor, source, cases, everything)
    for number, found in view.separated.items():
        cases[number].separated.update(found)
        cases[number].by_original.update(found)
    kept: list[Kept] = []
    idle = drawn = 0
    while len(kept) < variants and idle < ROUNDS_WITHOUT_GAIN:
        wanted = [[i for i in range(len(c.mutants)) if c.separated[i] < len(WORTH)] for c in cases]
        hard = _hard(cases)
        if not any(wanted):
            break
        views: dict[int, tuple[Path, dict[str, int], _View]] = {}
        failure: CannotFill | None = None
        for _ in range(ROUND):
            rng = random.Random(f"{seed}/{drawn}")
            file = folder / f"candidate-{drawn}.sqlite"
            try:
                rows = write_variant(file, schema, space, draw_profile(rng, hard), rng)
                views[drawn] = (file, rows, look(executor, file, cases, wanted))
            except CannotFill as error:
                file.unlink(missing_ok=True)
                failure = error
            drawn += 1
        if failure is not None and not views and not kept:
            raise failure
        gained = False
        for _ in range(min(KEPT_PER_ROUND, variants - len(kept), len(views))):
            best = max(views, key=lambda number: (_gain(cases, views[number][2]), -number))
            if not _gain(cases, views[best][2]):
                break
            file, rows, view = views.pop(best)
            gained = True
            kept.append(_keep(cases, folder, len(kept) + 1, file, rows, view))
        idle = 0 if gained else idle + 1
        for file, _, _ in views.values():
            file.unlink()
    return kept


def _keep(
    cases: list[Case], folder: Path, number: int, file: Path, rows: dict[str, int], view: _View
) -> Kept:
    name = folder / f"variant-{number:02d}.sqlite"
    file.rename(name)
    for case, found in view.separated.items():
        cases[case].separated.update(found)
    for case in view.filled:
        cases[case].filled += 1
    separated = sum(len(found) for found in view.separated.values())
    return Kept(name, rows, separated, tuple(view.unfit))


def _gain(cases: list[Case], view: _View) -> int:
    """What a file would add to those kept."""
    total = sum(_worth(cases[number].filled) for number in view.filled)
    for number, found in view.separated.items():
        total += sum(_worth(cases[number].separated[i]) for i in found)
    return total


def _worth(times: int) -> int:
    return WORTH[times] if times < len(WORTH) else 0


def _hard(cases: list[Case]) -> list[int]:
    """Golds with a mutant that nothing separates yet, or without rows on enough variants."""
    hard = [
        number
        for number, case in enumerate(cases)
        if case.filled < len(WORTH) or any(not case.separated[i] for i in range(len(case.mutants)))
    ]
    return hard or list(range(len(cases)))
