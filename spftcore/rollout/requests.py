"""What is asked of a generation engine and what it gives back, whichever engine it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length", "too_long", "failed"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        samples: completions of each prompt.
        temperature: 0 for greedy decoding.
        max_new_tokens: longest completion, end-of-sequence included.
        stop: texts that end a completion; they are not part of it.
        seed: of the draw. The completions of a prompt depend on it, on the prompt's key and on
            nothing else that is asked in the same call.
        keys: one for each prompt, by place, so that a prompt's draw is the same whatever it is
            asked beside; empty: its place is its key.
        grammars: EBNF for each prompt (`grammar.py`), within which its completion must stay, or
            None; empty: all are free. Log-probs are then those among the tokens that were allowed.
    """

    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    keys: tuple[int, ...] = ()
    grammars: tuple[str | None, ...] = ()

    def key(self, place: int) -> int:
        """What the draw of the prompt at a place depends on, beside the seed."""
        return self.keys[place] if self.keys else place

    def grammar(self, place: int) -> str | None:
        """What the completions of the prompt at a place are held to."""
        return self.grammars[place] if self.grammars else None


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion.

    Attributes:
        prompt: place of its prompt in the call.
        sample: its number among the prompt's completions, from 0.
        text: without special tokens and without the stop text.
        ids: its tokens, end-of-sequence included where it was reached.
        logprobs: of each token under the model itself, not under the tempered distribution.
        finish: `stop` (end-of-sequence or a stop text), `length` (the limit was reached),
            `too_long` (the prompt leaves no room in the context; nothing was generated), `failed`.
    """

    prompt: int
    sample: int
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


class Engine(Protocol):
    """A generation back end with a model in it."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, adapter: str | None = None
    ) -> Iterator[Completion]:
        """Completions in the order in which they are finished, so that they can be verified while
        others are generated.

        Args:
            prompts: token ids.
            sampling: how to draw.
            adapter: name of a loaded adapter; None for the base model.
        """
        ...
