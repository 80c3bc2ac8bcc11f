"""Models load from and save to plain folders, and their head gives the log-probs they define."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from conftest import CPU, corpus, prompts_of, tiny_settings

from spftcore import adapters, models
from spftcore.config import Config, LoraConfig, ModelConfig
from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs
from spftcore.models import LanguageModel, build_tiny, load, save

LORA = Config(lora=LoraConfig(rank=4, alpha=8, dropout=0.0))


def logits_of(model: Any, ids: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(ids)).logits
    return logits


SOME_IDS = [[5, 17, 40, 99, 3, 60, 8], [12, 250, 9, 77, 31, 2, 4]]


# -- the tiny model -----------------------------------------------------------------------------


def test_the_tiny_model_is_a_function_of_its_settings_corpus_and_seed() -> None:
    torch.manual_seed(0)
    first = build_tiny(tiny_settings(), corpus(), seed=3)
    torch.manual_seed(99)
    second = build_tiny(tiny_settings(), corpus(), seed=3)
    other = build_tiny(tiny_settings(), corpus(), seed=4)
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    assert torch.equal(logits_of(first.model, SOME_IDS), logits_of(second.model, SOME_IDS))
    assert not torch.equal(logits_of(first.model, SOME_IDS), logits_of(other.model, SOME_IDS))


@pytest.mark.parametrize("text", ["Who stayed 2041 nights?", "x = 'São Paulo'  and y > 0.5", "数"])
def test_the_tiny_tokenizer_loses_nothing_and_spells_numbers_digit_by_digit(
    tiny: LanguageModel, tmp_path: Path, text: str
) -> None:
    save(tiny, tmp_path / "tiny")
    loaded = load(tmp_path / "tiny", Config(), device=CPU).tokenizer
    for tokenizer in (tiny.tokenizer, loaded):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert ids == tiny.tokenizer(text)["input_ids"]
        pieces = [tokenizer.decode([token]).strip() for token in ids]
        assert all(len(p) == 1 for p in pieces if any(c.isdigit() for c in p))


# -- saving and loading --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "qwen2", "llama"])
def test_a_saved_model_loads_with_plain_transformers(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: LanguageModel = request.getfixturevalue(name)
    save(model, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(logits_of(plain, SOME_IDS), logits_of(model.model.eval(), SOME_IDS))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in ("select name from city where city_id = 12", "Où est L'Aquila ?"):
        assert tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    assert [file.suffix for file in (tmp_path / "model").iterdir() if "model" in file.name] == [
        ".safetensors"
    ]


@pytest.mark.parametrize("name", ["qwen2_folder", "llama_folder"])
def test_a_saved_adapter_loads_with_plain_peft_and_with_load(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder: Path = request.getfixturevalue(name)
    model = load(folder, LORA, device=CPU, new_adapter=True)
    before = logits_of(model.model.eval(), SOME_IDS)
    torch.manual_seed(2)
    with torch.no_grad():  # a fresh adapter changes nothing, so give it weights
        for parameter in model.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = logits_of(model.model.eval(), SOME_IDS)
    assert not torch.allclose(expected, before)
    save(model, tmp_path / "adapter")
    names = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    base = AutoModelForCausalLM.from_pretrained(folder)
    plain = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(logits_of(plain, SOME_IDS), expected)
    ours = load(tmp_path / "adapter", LORA, device=CPU)
    assert torch.equal(logits_of(ours.model.eval(), SOME_IDS), expected)
    assert ours.parent == str(folder)
    assert any(parameter.requires_grad for parameter in ours.model.parameters())


def test_an_adapter_trains_its_own_weights_only_and_starts_as_the_model_it_is_on(
    qwen2_folder: Path, qwen2: LanguageModel
) -> None:
    adapted = load(qwen2_folder, LORA, device=CPU, new_adapter=True)
    trained = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert not adapted.head.weight.requires_grad
    assert torch.equal(
        logits_of(adapted.model.eval(), SOME_IDS), logits_of(qwen2.model.eval(), SOME_IDS)
    )


def test_a_fresh_adapter_does_not_depend_on_what_ran_before(qwen2_folder: Path) -> None:
    # A resumed run loads in another order; its adapters must begin with the same weights.
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = load(qwen2_folder, LORA, device=CPU, new_adapter=True)
        weights.append([p.detach() for p in model.model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_loaded_adapter_drops_nothing_until_it_is_trained(
    qwen2_folder: Path, tmp_path: Path
) -> None:
    config = Config(lora=LoraConfig(rank=4, dropout=0.5))
    made = load(qwen2_folder, config, device=CPU, new_adapter=True)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    save(made, tmp_path / "adapter")
    loaded = load(tmp_path / "adapter", config, device=CPU)
    for model in (made.model, loaded.model):
        first, second = logits_of(model, SOME_IDS), logits_of(model, SOME_IDS)
        assert torch.equal(first, second)


def test_without_rank_a_new_adapter_is_not_put_on(qwen2_folder: Path) -> None:
    model = load(qwen2_folder, Config(), device=CPU, new_adapter=True)
    assert model.parent == ""
    assert all(p.requires_grad for p in model.model.parameters())


def test_an_adapter_of_a_relative_path_loads_from_another_folder(
    qwen2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(qwen2_folder.parent)
    save(load("qwen2", LORA, device=CPU, new_adapter=True), tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    load(tmp_path / "adapter", LORA, device=CPU)


def test_saving_replaces_what_was_there(tiny: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")  # of another kind of checkpoint
    save(tiny, path)
    assert not (path / "adapter_config.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_old_checkpoint(
    tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    save(tiny, path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(tiny.tokenizer), "save_pretrained", disk_full)
        with pytest.raises(OSError, match="No space"):
            save(tiny, path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    save(tiny, path)  # what the failed one left over is no obstacle
    load(path, Config(), device=CPU)


def test_a_kill_between_any_two_steps_of_saving_leaves_a_whole_checkpoint_or_none(
    tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    for target, step in ((os, "fsync"), (models.shutil, "rmtree"), (Path, "rename")):
        save(tiny, path)
        with monkeypatch.context() as patched:
            patched.setattr(target, step, killed)
            with pytest.raises(Killed):
                save(tiny, path)
        if path.exists():
            load(path, Config(), device=CPU)


# -- bad checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_folder", "llama_folder"])
def test_a_folder_without_a_tokenizer_is_refused(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    # transformers makes up an empty tokenizer for some model types instead of failing.
    folder: Path = request.getfixturevalue(name)
    for file in folder.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SpftError, match="tokenizer") as caught:
        load(tmp_path, Config(), device=CPU)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_weights_is_refused(qwen2_folder: Path, tmp_path: Path) -> None:
    for file in qwen2_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SpftError, match="No causal language model") as caught:
        load(tmp_path, Config(), device=CPU)
    assert str(tmp_path) in str(caught.value)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpftError, match="nowhere"):
        load(tmp_path / "nowhere", Config(), device=CPU)


def test_a_tokenizer_without_end_of_sequence_is_refused(qwen2_folder: Path, tmp_path: Path) -> None:
    for file in qwen2_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"eos_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(SpftError, match="end-of-sequence"):
        load(tmp_path, Config(), device=CPU)


def test_cuda_where_there_is_none_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = Config.model_validate({"run": {"device": "cuda"}})
    with pytest.raises(SpftError, match=r"run\.device"):
        models.pick_device(config)
    assert models.pick_device(Config()) == CPU


# -- the head ------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "vocab_size": 123,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("Qwen2", GROUPED),
    "Qwen2, tied": ("Qwen2", GROUPED | {"tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", GROUPED | {"head_dim": 8}),
    "Llama": ("Llama", GROUPED),
    "GPT-NeoX": ("GPTNeoX", SIZES),
    "Phi, head with bias": ("Phi", GROUPED),
    "Gemma 2, softcap": (
        "Gemma2",
        GROUPED | {"head_dim": 8, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
    ),
    "Granite, divides": ("Granite", GROUPED | {"logits_scaling": 4.0}),
    "Cohere, multiplies": ("Cohere", GROUPED | {"logit_scale": 0.25}),
    "MiniCPM3, divides before": (
        "MiniCPM3",
        SIZES
        | {
            "dim_model_base": 8,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 4,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
    "HyperCLOVA X, multiplies": ("HyperCLOVAX", GROUPED | {"logits_scaling": 4.0}),
    "Falcon-H1, multiplies": (
        "FalconH1",
        GROUPED
        | {
            "lm_head_multiplier": 4.0,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
        },
    ),
}


def random_model(name: str) -> Any:
    import transformers

    prefix, sizes = ARCHITECTURES[name]
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    torch.manual_seed(11)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    with torch.no_grad():  # far from uniform, so that a forgotten scale, cap or bias shows
        model.get_output_embeddings().weight.mul_(30)
        bias = getattr(model.get_output_embeddings(), "bias", None)
        if bias is not None:
            bias.normal_()
    return model.eval()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_hidden_states_and_head_give_the_models_own_logprobs(name: str) -> None:
    model = random_model(name)
    ids = torch.randint(3, 123, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    expected = logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    assert expected.std() > 0.05  # else the test would see nothing
    language_model = LanguageModel(model, None)
    head = language_model.head
    with torch.no_grad():
        hidden = language_model.hidden_states(ids, mask)[:, :-1]
        ours = linear_logprobs(
            hidden.flatten(0, 1),
            head.weight,
            ids[:, 1:].flatten(),
            head.bias,
            scale=head.scale,
            softcap=head.softcap,
        )
    torch.testing.assert_close(ours.view(2, 8).double(), expected, atol=2e-5, rtol=1e-5)


def test_an_adapters_hidden_states_are_those_of_the_adapted_model(qwen2_folder: Path) -> None:
    model = load(qwen2_folder, LORA, device=CPU, new_adapter=True)
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    model.model.eval()
    ids = torch.tensor(SOME_IDS)
    with torch.no_grad():
        hidden = model.hidden_states(ids, torch.ones_like(ids))
        logits = torch.nn.functional.linear(hidden, model.head.weight, model.head.bias)
    torch.testing.assert_close(logits, logits_of(model.model, SOME_IDS))


def test_parameters_are_counted_once(tiny: LanguageModel, qwen2: LanguageModel) -> None:
    # Tied: the embedding is the head, and counts once.
    width, layers, vocabulary = 32, 2, len(tiny.tokenizer)
    layer = 12 * width * width + 13 * width  # attention 4 w² + 4 w, MLP 8 w² + 5 w, norms 4 w
    assert tiny.parameters() == vocabulary * width + layers * layer + 2 * width
    assert qwen2.parameters() == sum(p.numel() for p in qwen2.model.parameters())


def test_the_tiny_model_reads_a_prompt_the_same_wherever_padding_stands(
    tiny: LanguageModel,
) -> None:
    (ids,) = prompts_of(tiny, ["Which cities lie in Peru?"])
    tiny.model.eval()
    plain = tiny.hidden_states(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))
    padded = tiny.hidden_states(
        torch.tensor([[*ids, 0, 0, 0]]), torch.tensor([[1] * len(ids) + [0] * 3])
    )
    torch.testing.assert_close(padded[:, : len(ids)], plain)


def test_the_network_is_not_asked_for_a_folder(
    qwen2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    load(qwen2_folder, Config(), device=CPU)


# -- adapters ------------------------------------------------------------------------------------


class ChosenLayers(LoraConfig):
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")


class Quantized(ModelConfig):
    quantize: str = "nf4"


def test_the_layers_that_are_named_are_adapted_and_no_others(qwen2_folder: Path) -> None:
    config = Config(lora=ChosenLayers(rank=4, alpha=8, dropout=0.0))
    model = load(qwen2_folder, config, device=CPU, new_adapter=True)
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in trained_names(model)}
    assert adapted == {"q_proj", "v_proj"}
    everywhere = load(qwen2_folder, LORA, device=CPU, new_adapter=True)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in trained_names(everywhere)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def trained_names(model: LanguageModel) -> list[str]:
    return [name for name, p in model.model.named_parameters() if p.requires_grad]


def test_a_layer_that_the_model_lacks_is_refused_with_those_it_has(qwen2_folder: Path) -> None:
    lora = ChosenLayers(rank=4, target_modules=("q_proj", "query_key_value"))
    with pytest.raises(SpftError, match=r"names 'query_key_value'.*down_proj, gate_proj.*v_proj"):
        load(qwen2_folder, Config(lora=lora), device=CPU, new_adapter=True)
    # The head is no layer to adapt: its log-probs are computed apart from the model.
    lora = ChosenLayers(rank=4, target_modules=("lm_head",))
    with pytest.raises(SpftError, match="names 'lm_head'"):
        load(qwen2_folder, Config(lora=lora), device=CPU, new_adapter=True)


def test_a_rank_that_makes_adapters_larger_than_the_model_is_refused(qwen2_folder: Path) -> None:
    # Per layer: q and o 32 x 32, k and v 16 x 32, three times 48 x 32: 7,680 weights, and
    # 64 + 64 + 48 + 48 + 3 x 80 = 464 per rank; 7,680 / 464 = 16.6.
    load(qwen2_folder, Config(lora=LoraConfig(rank=16)), device=CPU, new_adapter=True)
    with pytest.raises(SpftError, match=r"lora\.rank=17"):
        load(qwen2_folder, Config(lora=LoraConfig(rank=17)), device=CPU, new_adapter=True)


def test_quantization_without_its_package_is_refused_with_the_line_that_installs_it(
    qwen2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    config = Config(model=Quantized(), lora=LoraConfig(rank=4))
    with pytest.raises(SpftError, match="pip install bitsandbytes"):
        load(qwen2_folder, config, device=CPU, new_adapter=True)
    # Without an adapter nothing is quantized: a base in 4 bits cannot be trained or merged.
    plain = load(qwen2_folder, config, device=CPU)
    assert plain.model.dtype == torch.float32


def test_the_quantized_base_is_what_qlora_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: object())
    nf4 = adapters.quantization("nf4", torch.bfloat16)
    assert (nf4.load_in_4bit, nf4.load_in_8bit) == (True, False)
    assert (nf4.bnb_4bit_quant_type, nf4.bnb_4bit_use_double_quant) == ("nf4", True)
    assert nf4.bnb_4bit_compute_dtype is torch.bfloat16
    int8 = adapters.quantization("int8", torch.float32)
    assert (int8.load_in_4bit, int8.load_in_8bit) == (False, True)
    with pytest.raises(SpftError, match="none, nf4 or int8"):
        adapters.quantization("int4", torch.float32)
