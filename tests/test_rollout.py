"""The `hf` engine writes what its model's own scores say, however prompts are batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import CPU, prompts_of
from engine_contract import argmax_loop

from spftcore.config import Config
from spftcore.models import LanguageModel, load
from spftcore.rollout.hf import HfEngine, active_adapter
from spftcore.rollout.requests import Sampling

QUESTIONS = [
    "How many?",
    "Which cities lie in Peru? Which cities lie in Peru?",
    "Who?",
    "Name the largest city.",
    "How many visits were there in Quito?",
]


@pytest.fixture
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """A model with strong opinions, so that the best token is not a matter of the last bit."""
    found: LanguageModel = request.getfixturevalue(getattr(request, "param", "tiny"))
    with torch.no_grad():
        for parameter in found.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return found


def generate(
    model: LanguageModel, prompts: Sequence[tuple[int, ...]], *, batch_size: int, **how: Any
) -> list[tuple[int, ...]]:
    """Token ids of one completion of each prompt, in the order of the prompts."""
    engine = HfEngine(model, batch_size=batch_size)
    found = engine.generate(prompts, Sampling(**how), adapter=active_adapter(model))
    return [c.ids for c in sorted(found, key=lambda c: c.prompt)]


@pytest.mark.parametrize("model", ["tiny", "qwen2", "llama"], indirect=True)
def test_greedy_decoding_takes_the_best_token_each_time(model: LanguageModel) -> None:
    prompts = prompts_of(model, QUESTIONS)
    expected = [argmax_loop(model, prompt, 10) for prompt in prompts]
    assert len(set(expected)) > 2
    assert generate(model, prompts, max_new_tokens=10, batch_size=8) == expected


@pytest.mark.parametrize("model", ["tiny", "qwen2", "llama"], indirect=True)
def test_neither_padding_nor_the_batch_size_changes_an_answer(model: LanguageModel) -> None:
    prompts = prompts_of(model, QUESTIONS)
    together = generate(model, prompts, max_new_tokens=10, batch_size=8)
    by_two = generate(model, prompts, max_new_tokens=10, batch_size=2)
    alone = [generate(model, [p], max_new_tokens=10, batch_size=1)[0] for p in prompts]
    assert together == by_two == alone


def test_answers_come_in_the_order_of_the_prompts(model: LanguageModel) -> None:
    prompts = prompts_of(model, QUESTIONS)
    forward = generate(model, prompts, max_new_tokens=6, batch_size=2)
    backward = generate(model, prompts[::-1], max_new_tokens=6, batch_size=2)
    assert forward == backward[::-1]


def test_samples_follow_the_models_probabilities(llama: LanguageModel) -> None:
    # One token after one prompt, 2,000 times: each likely token comes as often as its probability
    # at temperature 0.5 says, within five standard deviations, and so does the tail of all tokens
    # below the 50 likeliest, which a default top-k would cut off.
    with torch.no_grad():
        llama.model.get_output_embeddings().weight.mul_(6)
    (prompt,) = prompts_of(llama, ["How many?"])
    draws = generate(
        llama, [prompt] * 2000, max_new_tokens=1, batch_size=2000, temperature=0.5, seed=1
    )
    with torch.no_grad():
        logits = llama.model(torch.tensor([prompt])).logits[0, -1].double()
    chance = (logits / 0.5).softmax(-1)
    counts = torch.bincount(torch.tensor([d[0] for d in draws]), minlength=len(chance)).double()
    order = chance.argsort(descending=True)
    groups = [[int(token)] for token in order[:10]] + [order[50:].tolist()]
    for group in groups:
        expected = 2000 * float(chance[group].sum())
        assert expected > 20
        deviation = (expected * (1 - expected / 2000)) ** 0.5
        assert abs(float(counts[group].sum()) - expected) < 5 * deviation


def test_an_adapter_generates_with_its_own_weights(qwen2_folder: Any) -> None:
    from spftcore.config import LoraConfig

    config = Config(lora=LoraConfig(rank=4, dropout=0.0))
    model = load(qwen2_folder, config, device=CPU, new_adapter=True)
    prompts = prompts_of(model, QUESTIONS)
    before = generate(model, prompts, max_new_tokens=8, batch_size=4)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    after = generate(model, prompts, max_new_tokens=8, batch_size=4)
    assert after != before
    assert after == [argmax_loop(model, prompt, 8) for prompt in prompts]
