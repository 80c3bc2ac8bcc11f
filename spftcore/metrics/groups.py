"""The groups by which results are broken down, and which of them a question belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spftcore.metrics.records import Scored

# By kind of group, in the order in which they are shown; a question may be in several of a kind.
GROUPS: dict[str, Callable[[Scored], Sequence[str]]] = {
    "hardness": lambda one: (one.hardness,) if one.hardness else (),
    "difficulty": lambda one: (one.difficulty,) if one.difficulty else (),
    "joins": lambda one: ("3 or more" if one.joins > 2 else str(one.joins),),
    "clause": lambda one: one.clauses,
    "database": lambda one: (one.database,),
}


def groups_of(one: Scored) -> list[tuple[str, str]]:
    """The (kind, value) of every group that a question is in."""
    return [(kind, value) for kind, values in GROUPS.items() for value in values(one)]
