"""An engine that answers from a script, and what else tests of inference share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from conftest import TRAVEL_PAIRS, corpus, tiny_settings

from spftcore.config import Config, PromptConfig
from spftcore.databases import Catalogue
from spftcore.encoding import Encoder
from spftcore.inference.answering import Prompting
from spftcore.models import build_tiny, save
from spftcore.prompts import PromptRenderer
from spftcore.rollout.requests import Completion, Finish, Sampling
from spftcore.store import Store


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


def memorised_run(folder: Path, databases: Path) -> Path:
    """A finished run whose model knows TRAVEL_PAIRS by heart, as a user's folder would be."""
    model = build_tiny(tiny_settings(), corpus(), seed=1)
    config = Config(
        prompt=PromptConfig(style="linked", max_prompt_tokens=96, max_completion_tokens=48)
    )
    renderer = PromptRenderer(config.prompt, Catalogue.open(databases))
    encoder = Encoder(model.tokenizer, chat_template=True)
    pairs = [
        (encoder.prompt(renderer.text_to_sql(question, "travel")), encoder.completion(sql))
        for question, sql in TRAVEL_PAIRS
    ]
    longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids, labels = [], []
    for prompt, completion in pairs:
        padding = longest - len(prompt) - len(completion)
        ids.append([*prompt, *completion] + [model.tokenizer.pad_token_id] * padding)
        labels.append([-100] * len(prompt) + [*completion] + [-100] * padding)
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-2)
    model.model.train()
    for _ in range(70):
        optimizer.zero_grad()
        model.model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.model.parameters(), 1.0)
        optimizer.step()
    model.model.eval()
    save(model, folder / "model")
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    Store(folder / "run.sqlite").close()
    return folder
