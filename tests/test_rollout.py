"""Generation writes what the model's own next-token scores say, however prompts are batched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import CPU, TRAVEL_PAIRS, memorise, prompts_of

from spftcore.config import Config
from spftcore.models import LanguageModel, load, save
from spftcore.rollout.hf import generate

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


def argmax_loop(model: LanguageModel, prompt: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Greedy decoding without cache, batch or padding."""
    model.model.eval()
    ids = list(prompt)
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    return tuple(ids[len(prompt) :])


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


def memorised(model: LanguageModel) -> LanguageModel:
    memorise(model)
    return model


def test_end_of_sequence_is_kept_and_nothing_after_it(tiny: LanguageModel) -> None:
    model = memorised(tiny)
    end = model.tokenizer.eos_token_id
    prompts = prompts_of(model, [question for question, _ in TRAVEL_PAIRS])
    answers = generate(model, prompts, max_new_tokens=60, batch_size=6)
    # One batch: the short ones are done while the long ones go on.
    assert answers == [(*ids, end) for ids in prompts_of(model, [sql for _, sql in TRAVEL_PAIRS])]
    cut = generate(model, prompts, max_new_tokens=3, batch_size=6)
    assert [len(ids) for ids in cut] == [3] * len(prompts)
    assert not any(end in ids for ids in cut)


def test_sampling_repeats_with_the_seed_and_only_then(tiny: LanguageModel) -> None:
    prompts = prompts_of(tiny, QUESTIONS)
    options: Any = {"max_new_tokens": 12, "batch_size": 3, "temperature": 1.0}
    first = generate(tiny, prompts, seed=5, **options)
    torch.rand(17)  # what else was drawn does not matter
    assert generate(tiny, prompts, seed=5, **options) == first
    assert generate(tiny, prompts, seed=6, **options) != first


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


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 3},
        {"min_new_tokens": 40},
    ],
)
def test_a_checkpoints_own_generation_settings_do_not_bend_greedy_decoding(
    own: dict[str, Any], tiny: LanguageModel, tmp_path: Any
) -> None:
    # Instruct checkpoints bring such settings along (Qwen2.5-Instruct: repetition_penalty 1.1).
    model = memorised(tiny)
    # Two prompts it does not know make it repeat itself.
    prompts = prompts_of(model, [question for question, _ in TRAVEL_PAIRS] + ["Who?", "Peru Peru"])
    expected = [argmax_loop(model, prompt, 50) for prompt in prompts]
    save(model, tmp_path / "model")
    settings = model.model.generation_config
    settings.update(**own)
    settings.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model", Config(), device=CPU)
    assert generate(loaded, prompts, max_new_tokens=50, batch_size=6) == expected


@pytest.mark.parametrize("own", [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 0.9}])
def test_a_checkpoints_own_filters_do_not_cut_sampling(
    own: dict[str, Any], llama: LanguageModel
) -> None:
    llama.model.generation_config.update(do_sample=True, **own)
    (prompt,) = prompts_of(llama, ["How many?"])
    draws = generate(llama, [prompt] * 50, max_new_tokens=1, batch_size=50, temperature=1.0, seed=1)
    assert len(set(draws)) > 10


def test_progress_counts_the_prompts_done(tiny: LanguageModel) -> None:
    done: list[int] = []
    prompts = prompts_of(tiny, QUESTIONS)
    generate(tiny, prompts, max_new_tokens=2, batch_size=2, report=done.append)
    assert done == [2, 4, 5]


def test_no_prompts_give_no_answers(tiny: LanguageModel) -> None:
    assert generate(tiny, [], max_new_tokens=2, batch_size=2) == []


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
