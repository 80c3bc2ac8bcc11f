"""The export: a plain checkpoint whose logits are those of the model it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU
from safetensors.torch import load_file, save_file

from spftcore import export as export_module
from spftcore.config import Config, LoraConfig
from spftcore.errors import SpftError
from spftcore.export import export, main
from spftcore.models import LanguageModel, load, save
from spftcore.store import Store

LORA = Config(lora=LoraConfig(rank=4, alpha=8, dropout=0.0))
IDS = torch.tensor([[5, 17, 40, 99, 3, 60, 8]])


def trained_adapter(base: Path) -> LanguageModel:
    """An adapter with weights that matter, as after a training."""
    model = load(base, LORA, device=CPU, new_adapter=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.model.eval()
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(IDS).logits.float()
    return out


@pytest.fixture
def run(tmp_path: Path, tiny: LanguageModel) -> Path:
    """A finished run whose candidates are adapters on a base of its own."""
    run = tmp_path / "runs" / "small"
    save(tiny, run / "checkpoints" / "base")
    store = Store(run / "run.sqlite")
    for name in ("vbi_1", "vbi_2"):
        save(trained_adapter(run / "checkpoints" / "base"), run / "checkpoints" / name)
        with store.stage(f"{name}_feedback") as stage:
            stage.candidate(name, None, f"checkpoints/{name}", 1, 2)
    store.close()
    (run / "config.yaml").write_text(LORA.to_yaml())
    shutil.copytree(run / "checkpoints" / "vbi_2", run / "model")
    return run


def command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ["qwen2_folder", "llama_folder"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(None, 1e-5), ("float32", 1e-5), ("float16", 5e-3), ("bfloat16", 4e-2)]
)
def test_a_merged_adapter_loads_with_plain_transformers_and_gives_its_logits(
    name: str,
    dtype: str | None,
    tolerance: float,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapted = trained_adapter(request.getfixturevalue(name))
    save(adapted, tmp_path / "adapter")
    done = export(tmp_path / "adapter", tmp_path / "out", Config(), dtype=dtype)
    assert (done.kind, done.dtype) == ("merged", dtype or "float32")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert plain.dtype == getattr(torch, dtype or "float32")
    expected = logits(adapted.model)
    assert (logits(plain) - expected).abs().max() <= tolerance * expected.abs().max()
    assert not torch.allclose(
        logits(load(request.getfixturevalue(name), Config(), device=CPU).model), expected, atol=1e-2
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("select 1")["input_ids"] == adapted.tokenizer("select 1")["input_ids"]
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"} <= names
    assert not any("adapter" in n or n == "base.json" for n in names)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert not any("lora" in key or "base_layer" in key for key in weights)


def test_merged_weights_are_the_base_plus_the_scaled_product(
    qwen2_folder: Path, tmp_path: Path
) -> None:
    save(trained_adapter(qwen2_folder), tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out", Config())
    base = load_file(qwen2_folder / "model.safetensors")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    parts = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layer = "model.layers.1.mlp.up_proj"
    a, b = (parts[f"base_model.model.{layer}.lora_{x}.weight"].double() for x in "AB")
    expected = base[f"{layer}.weight"].double() + (8 / 4) * b @ a  # alpha / rank
    torch.testing.assert_close(merged[f"{layer}.weight"].double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


def test_a_run_exports_its_best_candidate_or_a_named_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    assert command("--model", run, "--output", tmp_path / "best") == 0
    assert "merged float32" in capsys.readouterr().out
    assert command("--model", run, "--candidate", "vbi_1", "--output", tmp_path / "first") == 0
    assert command("--model", run, "--candidate", "base", "--output", tmp_path / "base") == 0
    expected = logits(load(run / "model", LORA, device=CPU).model.eval())
    best = AutoModelForCausalLM.from_pretrained(tmp_path / "best").eval()
    torch.testing.assert_close(logits(best), expected, atol=1e-5, rtol=1e-5)
    assert not list(tmp_path.glob("*.partial"))


def test_a_moved_run_finds_the_base_of_its_adapters(run: Path, tmp_path: Path) -> None:
    expected = logits(load(run / "model", LORA, device=CPU).model.eval())
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    run.rename(moved)
    for folder in ("model", "checkpoints/vbi_1"):
        model = load(moved / folder, LORA, device=CPU)
        assert model.parent == str(moved / "checkpoints" / "base")
    assert torch.equal(logits(load(moved / "model", LORA, device=CPU).model.eval()), expected)
    assert command("--model", moved, "--output", tmp_path / "out") == 0


def test_a_copied_run_uses_its_own_base_and_not_the_originals(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    own = load(copy / "model", LORA, device=CPU)
    assert own.parent == str(copy / "checkpoints" / "base")
    # Saved again, the adapter names the base it is on.
    save(own, copy / "checkpoints" / "next")
    shutil.rmtree(run)
    assert load(copy / "checkpoints" / "next", LORA, device=CPU).parent == own.parent
    settings = json.loads((copy / "checkpoints" / "next" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == own.parent


def test_an_adapter_alone_names_its_base_and_loads_with_plain_peft(
    run: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    assert command("--model", run, "--adapter", "--output", tmp_path / "adapter") == 0
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    expected = logits(load(run / "model", LORA, device=CPU).model.eval())
    torch.testing.assert_close(logits(plain), expected)


def test_a_full_model_is_copied_to_the_byte_and_rounded_where_asked(
    qwen2_folder: Path, tmp_path: Path
) -> None:
    done = export(qwen2_folder, tmp_path / "copy", Config())
    assert (done.kind, done.error) == ("model", None)
    for file in qwen2_folder.iterdir():
        assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes()
    export(qwen2_folder, tmp_path / "half", Config(), dtype="bfloat16")
    whole = load_file(qwen2_folder / "model.safetensors")
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert whole.keys() == half.keys()
    assert all(torch.equal(half[key], whole[key].bfloat16()) for key in whole)


def test_merged_weights_that_give_other_logits_are_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = export_module.models.load

    def damaged(path: Any, *rest: Any, **options: Any) -> LanguageModel:
        model = original(path, *rest, **options)
        if not model.parent:  # what was written, read back
            with torch.no_grad():
                for parameter in model.model.parameters():
                    parameter.mul_(1.1)
        return model

    monkeypatch.setattr(export_module.models, "load", damaged)
    with pytest.raises(SpftError, match="do not give the logits"):
        export(run / "model", tmp_path / "out", Config())
    assert not list(tmp_path.glob("out*"))


# -- what is refused ------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = command(*arguments)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return code, " ".join(message.split())


def test_an_existing_output_is_not_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    code, message = refused(capsys, "--model", run, "--output", tmp_path / "out")
    assert code == 2
    assert "not overwritten" in message
    assert not list((tmp_path / "out").iterdir())


def test_what_is_not_there_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--output", tmp_path / "out")
    code, message = refused(capsys, "--model", tmp_path / "nowhere", *out)
    assert (code, "nowhere" in message) == (1, True)
    code, message = refused(capsys, "--model", run, "--candidate", "vbi_9", *out)
    assert (code, "vbi_1, vbi_2" in message) == (1, True)
    code, message = refused(capsys, "--model", tmp_path, *out)
    assert (code, "neither a run" in message) == (1, True)
    code, message = refused(capsys, "--model", run / "model", "--candidate", "vbi_1", *out)
    assert (code, "needs a run" in message) == (2, True)
    code, message = refused(capsys, "--model", run / "checkpoints" / "base", "--adapter", *out)
    assert (code, "full model" in message) == (2, True)
    shutil.rmtree(run / "model")
    code, message = refused(capsys, "--model", run, *out)
    assert (code, "--candidate" in message) == (1, True)
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_base_is_gone_says_where_it_was_looked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints" / "base")
    code, message = refused(capsys, "--model", run, "--output", tmp_path / "out")
    assert code == 1
    assert str(run / "checkpoints" / "base") in message
    assert "base_model_name_or_path" in message


def test_an_adapter_of_another_model_or_without_weights_is_refused(
    run: Path, qwen2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = run / "model"
    out = ("--output", tmp_path / "out")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "base.json").unlink()
    settings["base_model_name_or_path"] = str(qwen2_folder)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    code, message = refused(capsys, "--model", adapter, *out)
    assert (code, "does not fit" in message) == (1, True)
    (adapter / "adapter_model.safetensors").unlink()
    code, message = refused(capsys, "--model", adapter, *out)
    assert (code, "adapter_model.safetensors" in message) == (1, True)
    (adapter / "adapter_config.json").write_text("{")
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    code, message = refused(capsys, "--model", adapter, *out)
    assert (code, "adapter_config.json" in message) == (1, True)


def test_an_adapter_with_a_weight_that_is_not_finite_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "model" / "adapter_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    code, message = refused(capsys, "--model", run, "--output", tmp_path / "out")
    assert code == 1
    assert "cannot be merged" in message
    assert not list(tmp_path.glob("out*"))
