"""An engine that answers from a script, and what else tests of inference share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from spftcore.config import PromptConfig
from spftcore.databases import Catalogue
from spftcore.inference.answering import Prompting
from spftcore.prompts import PromptRenderer
from spftcore.rollout.requests import Completion, Finish, Sampling


class Letters:
    """Encodes a prompt as the numbers of its characters, so that a scripted engine can read it."""

    def prompt(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))


@dataclass
class ScriptedEngine:
    """Gives each question the texts of its script: the greedy one first, then the samples.

    Attributes:
        script: texts by question; a text may come with its log-prob and its finish.
        again: texts of the second try, by the first answer.
        calls: (prompt texts, sampling) of each call.
    """

    script: Mapping[str, Sequence[str | tuple[str, float] | tuple[str, float, Finish]]]
    again: Mapping[str, str] = field(default_factory=dict)
    calls: list[tuple[list[str], Sampling]] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, adapter: str | None = None
    ) -> Iterator[Completion]:
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        self.calls.append((texts, sampling))
        # The last first: an engine promises no order.
        for place in reversed(range(len(prompts))):
            for sample in reversed(range(sampling.samples)):
                text, logprob, finish = self._said(texts[place], sampling, sample)
                yield Completion(place, sample, text, (), (logprob,), finish)

    def _said(self, prompt: str, sampling: Sampling, sample: int) -> tuple[str, float, Finish]:
        for first, second in self.again.items():
            if first in prompt and "wrong" in prompt:
                return second, -1.0, "stop"
        (entries,) = [said for question, said in self.script.items() if question in prompt]
        entry = entries[sample + 1 if sampling.temperature > 0 else 0]
        if isinstance(entry, str):
            return entry, -1.0, "stop"
        return (*entry, "stop")[:3]  # type: ignore[return-value]


def prompting(catalogue: Catalogue, **limits: int) -> Prompting:
    """Prompts in the `compact` style, as characters."""
    config = PromptConfig(style="compact", **{"max_prompt_tokens": 4000, **limits})
    return Prompting(PromptRenderer(config, catalogue), Letters(), catalogue, config)
