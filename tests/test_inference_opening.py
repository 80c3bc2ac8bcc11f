"""What `--model` may name, and with which settings it is asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import CPU, TRAVEL_PAIRS

from spftcore.config import Config, LoraConfig
from spftcore.databases import Catalogue
from spftcore.errors import SpftError, UsageError
from spftcore.inference.answering import Question
from spftcore.inference.opening import ModelSource, OpenModel
from spftcore.inference.strategies import Strategy
from spftcore.models import load, save


def test_a_run_answers_with_its_own_settings(travel_run: Path, catalogue: Catalogue) -> None:
    source = ModelSource.find(str(travel_run))
    assert source.path == travel_run / "model"
    assert source.config.prompt.style == "linked"
    asked = [Question(str(n), "travel", q) for n, (q, _) in enumerate(TRAVEL_PAIRS)]
    with OpenModel(source).answerer(catalogue, Strategy(samples=2), threads=1) as answerer:
        found = {a.question.question: a.sql for a in answerer.answers(asked)}
    assert found == dict(TRAVEL_PAIRS)


def test_a_checkpoint_inside_a_run_has_the_settings_of_the_run_and_options_win(
    travel_run: Path, tmp_path: Path
) -> None:
    inside = ModelSource.find(str(travel_run / "model"))
    assert inside.config.prompt.style == "linked"
    options = {"prompt": {"style": "ddl"}}
    assert ModelSource.find(str(travel_run), options=options).config.prompt.style == "ddl"
    alone = tmp_path / "alone"
    shutil.copytree(travel_run / "model", alone)
    assert ModelSource.find(str(alone)).config == Config()


def test_a_digest_names_the_weights_and_not_the_place(travel_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(travel_run, copy)
    original, moved = ModelSource.find(str(travel_run)), ModelSource.find(str(copy))
    assert original.digest == moved.digest
    weights = copy / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert ModelSource.find(str(copy)).digest != original.digest


@pytest.mark.parametrize("name", ["chat_template.jinja", "merges.txt", "tokenizer.model"])
def test_a_digest_covers_what_prompts_are_encoded_with(
    qwen2_folder: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(qwen2_folder, tmp_path / "copy")
    before = ModelSource.find(str(tmp_path / "copy")).digest
    with (tmp_path / "copy" / name).open("a") as file:
        file.write("changed")
    assert ModelSource.find(str(tmp_path / "copy")).digest != before


def test_a_digest_of_an_adapter_covers_its_base(qwen2_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(qwen2_folder, base)
    config = Config(lora=LoraConfig(rank=2))
    save(load(base, config, device=CPU, new_adapter=True), tmp_path / "adapter")
    before = ModelSource.find(str(tmp_path / "adapter")).digest
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert ModelSource.find(str(tmp_path / "adapter")).digest != before


def test_an_adapter_answers_and_not_its_base(
    qwen2_folder: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    config = Config(lora=LoraConfig(rank=2))
    model = load(qwen2_folder, config, device=CPU, new_adapter=True)
    for name, parameter in model.model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.5)
    save(model, tmp_path / "adapter")
    options = {"prompt": {"style": "linked", "max_completion_tokens": 12}}
    samples = []
    for path in (qwen2_folder, tmp_path / "adapter"):
        source = ModelSource.find(str(path), options=options)
        with OpenModel(source).answerer(catalogue, Strategy(samples=3), threads=1) as answerer:
            (answered,) = answerer.answers([Question("1", "travel", "Who?")])
            samples.append(answered.samples)
    assert samples[0] != samples[1]


def test_what_is_not_there_is_said_with_the_remedy(tmp_path: Path, travel_run: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(SpftError, match="There is no folder"):
        ModelSource.find(str(tmp_path / "runs" / "demo"))
    (tmp_path / "runs" / "empty").mkdir()
    with pytest.raises(SpftError, match="neither a run"):
        ModelSource.find(str(tmp_path / "runs" / "empty"))
    unfinished = tmp_path / "runs" / "unfinished"
    shutil.copytree(travel_run, unfinished, ignore=shutil.ignore_patterns("model"))
    with pytest.raises(SpftError, match=r"has not chosen its best candidate yet.*--resume"):
        ModelSource.find(str(unfinished))
    with pytest.raises(SpftError, match="no candidate 'vbi_9'"):
        ModelSource.find(str(travel_run), "vbi_9")
    with pytest.raises(UsageError, match="--candidate needs a run"):
        ModelSource.find("owner/name", "vbi_1")


def test_a_hub_id_that_cannot_be_had_is_an_error_of_one_sentence(catalogue: Catalogue) -> None:
    source = ModelSource.find("no-such-owner/no-such-model")
    with pytest.raises(SpftError, match="no-such-owner/no-such-model"):
        OpenModel(source)
