"""Opponent log-probs that are known already, and when they may serve again.

A log-prob depends on the opponent's weights and on the token ids of prompt and completion, and on
nothing else: a changed tokenizer, prompt style or chat template shows in the ids, a changed
adapter, base or dtype in the weights. Both are kept as digests beside the values.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from spftcore.store import Answer, Store


def tokens_digest(prompt: Sequence[int], completion: Sequence[int]) -> str:
    """Digest of the token ids that a log-prob is of, 64 hexadecimal digits.

    The border counts: the same ids with another share of them as prompt are another completion.
    """
    ids = array("q", (len(prompt), *prompt, *completion))
    return hashlib.sha256(ids.tobytes()).hexdigest()


@dataclass(slots=True)
class Known:
    """What earlier iterations hold of one opponent.

    Attributes:
        logprobs: by digest of the tokens, as stored.
        answers: its answers by (pair id, digest of prompt and gold).
    """

    logprobs: dict[str, bytes] = field(default_factory=dict)
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)


def known(store: Store, system: str, iteration: int, weights: str) -> Known:
    """What the earlier iterations of a system hold of the opponent with these weights.

    Only what is complete before this iteration in every order of the stages is read: a baseline
    that runs beside this one may have the same opponent, but whether it is done yet is chance, and
    a run that is resumed must end as an uninterrupted one.
    """
    found = Known()
    for earlier in range(1, iteration):
        stage = f"{system}_{earlier}_answers"
        scored = store.opponent_logprobs(stage)
        answers = store.answers(stage, "opponent")
        for (pair, role), one in scored.items():
            if one.weights != weights:
                continue
            found.logprobs[one.tokens] = one.logprobs
            if role == "gold" and pair in answers:
                # The gold's ids hold the prompt's: an equal digest is an equal prompt.
                found.answers[pair, one.tokens] = answers[pair]
    return found
