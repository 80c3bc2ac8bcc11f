"""Which engine a run generates with, and what it does with the models that it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_vllm as fake
import pytest
from test_rollout_served import Server, server
from torch import nn

from spftcore.config import Config, resolve
from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.rollout.engines import Engines
from spftcore.rollout.requests import Sampling

__all__ = ["server"]


def saved(folder: Path, **settings: Any) -> LanguageModel:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8} | settings))
    (folder / "tokenizer.json").write_text("{}")
    return LanguageModel(nn.Linear(1, 1), None, folder=str(folder))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    python = fake.interpreter(tmp_path / "fake")
    return resolve([("a test", {"generation": {"engine": "vllm", "vllm_python": str(python)}})])


def test_one_engine_serves_all_stages_and_rests_between_them(
    config: Config, tmp_path: Path
) -> None:
    first, second = saved(tmp_path / "first"), saved(tmp_path / "second")
    engines = Engines()
    try:
        asked, adapter = engines.of(first, config, tmp_path)
        assert adapter is None
        engines.rest()
        engines.rest()
        again, _ = engines.of(first, config, tmp_path)
        assert not (tmp_path / "first" / "reloaded").exists()
        other, _ = engines.of(second, config, tmp_path)
        assert asked is again is other
        assert (tmp_path / "second" / "reloaded").exists()
    finally:
        engines.close()


def test_the_end_of_a_stage_does_not_hide_why_its_engine_failed(
    config: Config, tmp_path: Path
) -> None:
    engines = Engines()
    engine, _ = engines.of(saved(tmp_path / "model"), config, tmp_path)
    with pytest.raises(SpftError, match=r"twice.*the fake engine raised"):
        list(engine.generate([[fake.RAISES, 3]], Sampling(max_new_tokens=5)))
    engines.rest()  # as `RunContext.close` does: an error of its own would take the other's place
    engines.close()


def test_a_server_does_not_answer_for_a_model_that_the_run_has_trained(
    server: Server, tmp_path: Path
) -> None:
    config = resolve([("a test", {"generation": {"engine": "served", "url": server.url}})])
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    theirs = saved(tmp_path / "base")
    engine, adapter = Engines().of(theirs, config, run)
    assert adapter is None
    assert len(list(engine.generate([[3, 5]], Sampling(max_new_tokens=4)))) == 1
    with pytest.raises(SpftError, match="cannot take the weights"):
        Engines().of(saved(run / "checkpoints" / "sft"), config, run)


def test_a_model_that_lies_nowhere_as_it_is_now_must_be_saved_first(
    config: Config, tmp_path: Path
) -> None:
    model = saved(tmp_path / "model")
    model.folder = ""
    with pytest.raises(SpftError, match="save it first"):
        Engines().of(model, config, tmp_path)
