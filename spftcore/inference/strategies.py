"""Which of several answers to one question is taken, and why: pure rules over what was executed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from spftcore.errors import UsageError
from spftcore.verify import Outcome, Status

Repair = Literal["off", "errors", "empty"]
REPAIRS: tuple[Repair, ...] = get_args(Repair)

# A result that says nothing wins only with more than so many times the votes of any other: a wrong
# condition gives no rows far more often than a question is asked whose answer is nothing.
EMPTY_NEEDS = 4


@dataclass(frozen=True, slots=True)
class Strategy:
    """How an answer is found.

    Attributes:
        samples: completions drawn beside the greedy one; with 0 the greedy one is the answer.
        temperature: of these.
        repair: show the model the message of an answer that does not run (`errors`), or also tell
            it of one that returns nothing (`empty`), and take its second answer if that does
            better.
        seed: of the draw.
    """

    samples: int = 0
    temperature: float = 0.8
    repair: Repair = "off"
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.samples <= 1000:
            raise UsageError(f"--samples must be between 0 and 1000, not {self.samples}.")
        if not 0 < self.temperature <= 10:
            raise UsageError(
                f"--temperature must be above 0 and at most 10, not {self.temperature}. The greedy "
                "answer is always there; --samples 0 takes it alone."
            )
        if self.repair not in REPAIRS:
            raise UsageError(f"--repair is one of {', '.join(REPAIRS)}, not {self.repair!r}.")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion of a question's prompt.

    Attributes:
        sql: the SQL in it; empty when there is none.
        logprob: natural logarithm of its probability under the model, all its tokens together.
    """

    sql: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One SQL text among a question's completions.

    Attributes:
        sql: the text.
        completions: how many of the completions hold it.
        first: the place of the first of them; the greedy one has place 0.
        logprob: of the most probable of them.
        outcome: what its execution gave.
    """

    sql: str
    completions: int
    first: int
    logprob: float
    outcome: Outcome

    @property
    def says_nothing(self) -> bool:
        """It ran and gave no row, or nothing but NULL."""
        return self.outcome.ran and (self.outcome.rows == 0 or self.outcome.all_null)


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate taken.

    Attributes:
        candidate: the one.
        votes: completions whose result is the same as its.
        voters: completions that ran.
        reason: why it, in words.
    """

    candidate: Candidate
    votes: int
    voters: int
    reason: str


def distinct(drawn: Sequence[Drawn]) -> list[tuple[str, int, int, float]]:
    """(SQL, completions, first place, log-prob) of each text, in order of first appearance; the
    completions without SQL are passed over."""
    found: dict[str, tuple[int, int, float]] = {}
    for place, one in enumerate(drawn):
        if one.sql:
            count, first, logprob = found.get(one.sql, (0, place, one.logprob))
            found[one.sql] = count + 1, first, max(logprob, one.logprob)
    return [(sql, *values) for sql, values in found.items()]


def choose(candidates: Iterable[Candidate]) -> Choice | None:
    """Execution-guided choice.

    Of the candidates that run, those with the same result (as a bag of rows, columns by position)
    stand together with one vote for each of their completions. Most votes win, where a result
    without rows, or of nothing but NULL, needs more than `EMPTY_NEEDS` times the votes of any other
    to win over it. At equal votes the result with the more probable SQL wins; then the one drawn
    first, the greedy one before all. Within the result, the most probable SQL is taken, then the
    first.

    If none runs, the greedy answer (or the first that holds SQL) is taken, with its error.

    Returns:
        None when there is no candidate.
    """
    everything = sorted(candidates, key=lambda c: c.first)
    if not everything:
        return None
    groups: dict[str, list[Candidate]] = {}
    for candidate in everything:
        if candidate.outcome.ran:
            groups.setdefault(candidate.outcome.fingerprint, []).append(candidate)
    if not groups:
        return Choice(everything[0], 0, 0, "no answer runs; this is the first")
    votes = {key: sum(c.completions for c in group) for key, group in groups.items()}
    voters = sum(votes.values())
    # `max` keeps the first of equals, and the groups are in the order in which they were drawn.
    members = {key: max(group, key=lambda c: c.logprob) for key, group in groups.items()}

    def weight(key: str) -> tuple[int, bool, float]:
        talks = not members[key].says_nothing
        return votes[key] * (EMPTY_NEEDS if talks else 1), talks, members[key].logprob

    best = max(groups, key=weight)
    taken = members[best]
    others = [key for key in groups if key != best]
    if voters == 1:
        reason = "the only answer" if len(everything) == 1 else "the only answer that runs"
    elif not others:
        reason = f"all {voters} answers that run give this result"
    else:
        reason = f"{votes[best]} of the {voters} answers that run give this result"
    if any(votes[key] > votes[best] for key in others):
        reason += "; more give one that says nothing"
    elif any(weight(key)[:2] == weight(best)[:2] for key in others):
        reason += "; as many give another, whose SQL is less probable"
    return Choice(taken, votes[best], voters, reason)


def wants_repair(candidate: Candidate, repair: Repair) -> bool:
    """Whether a chosen answer is shown to the model again: one that the model can be blamed for."""
    outcome = candidate.outcome
    if outcome.ran:
        return repair == "empty" and candidate.says_nothing
    return repair != "off" and outcome.status not in (Status.DATABASE_ERROR, Status.CRASHED)


def repaired_better(before: Candidate, after: Outcome) -> bool:
    """Whether the second answer is taken: it runs where the first did not, or it says something
    where the first said nothing."""
    if not before.outcome.ran:
        return after.ran
    return after.ran and after.rows > 0 and not after.all_null
