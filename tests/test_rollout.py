"""The `hf` engine writes what its model's own scores say, however prompts are batched."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import CPU, TRAVEL_PAIRS, memorise, prompts_of
from engine_contract import argmax_loop, forced_logprobs

from spftcore.config import Config
from spftcore.errors import SpftError
from spftcore.models import LanguageModel, load
from spftcore.rollout.hf import HfEngine, active_adapter, end_tokens
from spftcore.rollout.requests import Sampling
from spftcore.rollout.sampling import next_tokens

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


def test_greedy_decoding_equals_that_of_transformers(tiny: LanguageModel) -> None:
    memorise(tiny)
    texts = [text for pair in TRAVEL_PAIRS for text in pair]
    prompts = prompts_of(tiny, [text[:cut] for text in texts for cut in range(4, len(text), 4)])
    got = generate(tiny, prompts, max_new_tokens=40, batch_size=16)
    assert len(set(got)) > 20
    for prompt, ids in zip(prompts, got, strict=True):
        whole = tiny.model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)
        assert ids == tuple(whole[0, len(prompt) :].tolist())


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


def test_samples_follow_the_models_probabilities_beyond_the_likeliest(
    llama: LanguageModel,
) -> None:
    # All samples of one prompt, as one call gives them: no two rows share their chance.
    with torch.no_grad():
        llama.model.get_output_embeddings().weight.mul_(6)
    (prompt,) = prompts_of(llama, ["How many?"])
    how = Sampling(samples=2000, temperature=2.0, max_new_tokens=1, seed=4)
    drawn = [c.ids[0] for c in HfEngine(llama, batch_size=700).generate([prompt], how)]
    with torch.no_grad():
        chance = (llama.model(torch.tensor([prompt])).logits[0, -1].double() / 2).softmax(-1)
    counts = torch.bincount(torch.tensor(drawn), minlength=len(chance)).double()
    likely = chance * 2000 > 5
    statistic = float(((counts - 2000 * chance)[likely] ** 2 / (2000 * chance[likely])).sum())
    freedom = int(likely.sum()) - 1
    # A chi-square variable has mean n and variance 2n.
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


# -- kinds of models ----------------------------------------------------------------------------


def random_model(tokenizer: Any, kind: str) -> LanguageModel:
    """A tiny model with strong opinions."""
    import transformers

    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    window = {"sliding_window": 6}
    mixed = {"layer_types": ["sliding_attention", "full_attention"]}
    torch.manual_seed(3)
    found: Any
    if kind == "Mistral":
        found = transformers.MistralForCausalLM(transformers.MistralConfig(**size, **window))
    elif kind == "Gemma 3":
        settings = transformers.Gemma3TextConfig(**size, **window, **mixed, head_dim=8)
        found = transformers.Gemma3ForCausalLM(settings)
    elif kind == "GPT-2":  # learned positions: there is none after the last
        names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer"}
        names |= {"num_attention_heads": "n_head", "max_position_embeddings": "n_positions"}
        own = {names.get(key, key): value for key, value in size.items()}
        del own["num_key_value_heads"], own["intermediate_size"]
        found = transformers.GPT2LMHeadModel(transformers.GPT2Config(**own))
    elif kind == "LFM2":  # a convolution's state in place of keys
        settings = transformers.Lfm2Config(**size, layer_types=["conv", "full_attention"])
        found = transformers.Lfm2ForCausalLM(settings)
    else:
        own = {key: size[key] for key in size if "num_" not in key or "layers" in key}
        found = transformers.MambaForCausalLM(transformers.MambaConfig(**own, state_size=8))
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return LanguageModel(found.eval(), tokenizer)


@pytest.mark.parametrize("kind", ["Mistral", "Gemma 3", "GPT-2", "LFM2", "Mamba"])
def test_windows_learned_positions_and_states_do_not_mind_the_batch(
    kind: str, tiny: LanguageModel
) -> None:
    model = random_model(tiny.tokenizer, kind)
    # Shorter and longer than the window; the longest reaches the end of the context.
    prompts = [*prompts_of(model, QUESTIONS), tuple(range(40, 40 + 34))]
    expected = [argmax_loop(model, prompt, min(10, 40 - len(prompt))) for prompt in prompts]
    assert len(set(expected)) > 4
    assert generate(model, prompts, max_new_tokens=10, batch_size=4) == expected
    drawn = HfEngine(model, batch_size=6).generate(
        prompts, Sampling(samples=2, temperature=1.0, max_new_tokens=6)
    )
    for completion in drawn:
        forced = forced_logprobs(model, prompts[completion.prompt], completion.ids)
        assert completion.logprobs == pytest.approx(forced, abs=1e-4)


def test_a_long_completion_outgrows_the_room_of_its_cache(qwen2: LanguageModel) -> None:
    prompts = prompts_of(qwen2, ["Who?", "Name the largest city."])
    expected = [argmax_loop(qwen2, prompt, 150) for prompt in prompts]
    assert max(map(len, expected)) > 140
    assert generate(qwen2, prompts, max_new_tokens=150, batch_size=2) == expected


# -- what goes wrong ----------------------------------------------------------------------------


def with_little_memory(
    model: LanguageModel, rows: int, monkeypatch: pytest.MonkeyPatch, step: int = 2
) -> None:
    """From its `step`-th call on, a pass over more than so many rows wants more than there is."""
    forward, calls = model.model.forward, [0]

    def greedy_for_memory(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] >= step and named["input_ids"].shape[0] > rows:
            torch.empty(1 << 60)
        return forward(*arguments, **named)

    monkeypatch.setattr(model.model, "forward", greedy_for_memory)


def test_where_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = prompts_of(tiny, QUESTIONS) * 2
    how = Sampling(samples=2, temperature=1.0, max_new_tokens=8)
    expected = {(c.prompt, c.sample): c.ids for c in HfEngine(tiny).generate(prompts, how)}
    with_little_memory(tiny, 3, monkeypatch)
    engine = HfEngine(tiny, batch_size=16)
    got = list(engine.generate(prompts, how))
    assert {(c.prompt, c.sample): c.ids for c in got} == expected
    assert len(got) == len(expected)
    assert engine.batch_size == 2
    # 16, 8 and 4 were too many, each said once; later calls begin with what fits.
    assert len(caplog.messages) == 3
    list(engine.generate(prompts, how))
    assert len(caplog.messages) == 3


def test_a_prompt_that_does_not_fit_even_alone_fails_alone(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(tiny, QUESTIONS)
    longest = max(map(len, prompts))
    forward = tiny.model.forward

    def greedy_for_memory(*arguments: Any, **named: Any) -> Any:
        if named["input_ids"].shape[1] == longest:
            torch.empty(1 << 60)
        return forward(*arguments, **named)

    monkeypatch.setattr(tiny.model, "forward", greedy_for_memory)
    got = {c.prompt: c for c in HfEngine(tiny).generate(prompts, Sampling(max_new_tokens=5))}
    failed = [i for i, c in got.items() if c.finish == "failed"]
    assert failed == [i for i, prompt in enumerate(prompts) if len(prompt) == longest]
    assert all(got[i].ids for i in range(len(prompts)) if i not in failed)


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(tiny.model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        list(HfEngine(tiny).generate(prompts_of(tiny, QUESTIONS), Sampling()))


def test_an_empty_prompt_fails_alone(tiny: LanguageModel) -> None:
    prompts = [(), *prompts_of(tiny, ["Who?"])]
    got = {c.prompt: c for c in HfEngine(tiny).generate(prompts, Sampling(max_new_tokens=3))}
    assert (got[0].finish, got[0].ids) == ("failed", ())
    assert got[1].ids


# -- between two completions --------------------------------------------------------------------


def test_the_model_is_as_it_was_whenever_a_completion_is_handed_out(qwen2_folder: Any) -> None:
    from spftcore.config import LoraConfig

    config = Config(lora=LoraConfig(rank=4, dropout=0.0))
    model = load(qwen2_folder, config, device=CPU, new_adapter=True)
    trainable = {n for n, p in model.model.named_parameters() if p.requires_grad}
    prompts = prompts_of(model, QUESTIONS)
    before = generate(model, prompts, max_new_tokens=4, batch_size=4)
    for _ in HfEngine(model, batch_size=2).generate(prompts, Sampling(max_new_tokens=4)):
        assert not torch.is_inference_mode_enabled()
        assert model.model.active_adapter == "default"
        assert {n for n, p in model.model.named_parameters() if p.requires_grad} == trainable
        # Who verifies answers may train or ask in between.
        assert generate(model, prompts, max_new_tokens=4, batch_size=4) == before


def test_training_mode_is_as_it_was_after_answering(tiny: LanguageModel) -> None:
    layers = list(tiny.model.modules())
    for number, layer in enumerate(layers):
        layer.training = number % 2 == 0
    before = [layer.training for layer in layers]
    generate(tiny, prompts_of(tiny, QUESTIONS), max_new_tokens=3, batch_size=2)
    assert [layer.training for layer in layers] == before


def test_an_adapter_that_does_not_fit_leaves_nothing_behind(
    qwen2_folder: Any, tmp_path: Any
) -> None:
    from spftcore.config import LoraConfig
    from spftcore.models import save

    first, good = (
        load(
            qwen2_folder, Config(lora=LoraConfig(rank=4, dropout=0.0)), device=CPU, new_adapter=True
        )
        for _ in range(2)
    )
    save(good, tmp_path / "good")
    save(good, tmp_path / "bad")
    settings = tmp_path / "bad" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"r": 4', '"r": 2'))
    engine = HfEngine(first)
    with pytest.raises(SpftError, match="does not fit"):
        engine.load_adapter("other", tmp_path / "bad")
    with pytest.raises(SpftError, match="holds no adapter 'other'"):
        list(engine.generate([(5,)], Sampling(), adapter="other"))
    engine.load_adapter("other", tmp_path / "good")


# -- what ends a completion ---------------------------------------------------------------------


def test_the_end_of_a_turn_that_a_checkpoint_names_ends_a_completion(tiny: LanguageModel) -> None:
    # Gemma's tokenizer says <eos>, its chat models write <end_of_turn>.
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    tiny.model.resize_token_embeddings(len(tokenizer))
    model = LanguageModel(tiny.model, tokenizer)
    forward = tiny.model.forward

    def certain(*arguments: Any, **named: Any) -> Any:
        output = forward(*arguments, **named)
        output.logits[..., turn] = 99.0
        return output

    tiny.model.forward = certain
    prompts = prompts_of(model, QUESTIONS)
    # A word of the vocabulary is none, even where an architecture's default calls it one.
    word = prompts[0][0]
    tiny.model.generation_config.eos_token_id = word
    assert {len(ids) for ids in generate(model, prompts, max_new_tokens=4, batch_size=2)} == {4}
    assert word not in end_tokens(model)
    tiny.model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn]
    assert set(generate(model, prompts, max_new_tokens=4, batch_size=2)) == {(turn,)}


def test_scores_that_are_no_numbers_do_not_end_the_call() -> None:
    tokens, _ = next_tokens(torch.full((2, 7), float("nan")), 1.0, torch.tensor([0.1, 0.9]))
    assert ((tokens >= 0) & (tokens < 7)).all()
