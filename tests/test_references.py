"""Opponent log-probs are reused exactly where weights and tokens are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, TRAVEL_PAIRS

from spftcore import models
from spftcore.config import Config, LoraConfig
from spftcore.errors import SpftError
from spftcore.models import LanguageModel, load, save
from spftcore.pairs import Pair
from spftcore.stages import self_play
from spftcore.stages.context import RunContext
from spftcore.stages.references import known, tokens_digest
from spftcore.store import Store

SETTINGS: dict[str, Any] = {"prompt": {"style": "linked"}, "vbi": {"rounds": 1}}
LORA = Config(lora=LoraConfig(rank=2, alpha=4, dropout=0.0))


class Play:
    """A run whose opponent is the same in every iteration, counting what it is asked for."""

    def __init__(self, folder: Path, databases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store(folder / "run.sqlite")
        self.folder, self.databases = folder, databases
        self.opponent = folder / "checkpoints" / "vbi_1"
        self.settings = SETTINGS
        self.generated: list[str] = []
        self.scored: list[str] = []
        with self.store.stage("prepare") as stage:
            stage.pairs(
                Pair(f"p{i}", "travel", question, sql, split="train", source="seed")
                for i, (question, sql) in enumerate(TRAVEL_PAIRS)
            )
        with self.store.stage("base") as stage:
            stage.result = {"path": str(folder / "checkpoints" / "base")}
        with self.store.stage("vbi_1_synthesize"):
            pass
        with self.store.stage("vbi_1_feedback") as stage:
            stage.candidate("vbi_1", None, str(self.opponent), 1, 10)
        with self.store.stage("vbi_2_feedback") as stage:
            stage.candidate("vbi_2", None, str(self.opponent), 5, 10)

        def completions(
            _: RunContext, __: LanguageModel, prompts: Sequence[str], ___: object = None
        ) -> Any:
            self.generated += prompts
            return enumerate(["select count(*) from visit"] * len(prompts))

        computed = self_play.logprobs

        def logprobs(
            context: RunContext, model: LanguageModel, pairs: list[Pair], answers: list[str]
        ) -> list[tuple[torch.Tensor, torch.Tensor]]:
            self.scored += [pair.id for pair in pairs]
            return computed(context, model, pairs, answers)

        monkeypatch.setattr(RunContext, "completions", completions)
        monkeypatch.setattr(self_play, "logprobs", logprobs)

    def answers(self, iteration: int) -> tuple[int, int]:
        """Plays the first half of an iteration; (questions answered, pairs scored) anew."""
        self.generated.clear()
        self.scored.clear()
        config = Config.model_validate(self.settings)
        context = RunContext(config, self.folder, self.store, self.databases, lambda *_: None)
        with self.store.stage(f"self_play_{iteration}_answers") as stage:
            self_play.answers(context, stage, "self_play", iteration)
        context.close()
        return len(self.generated), len(self.scored)

    def rows(self, iteration: int) -> dict[tuple[str, str], bytes]:
        stored = self.store.opponent_logprobs(f"self_play_{iteration}_answers")
        return {key: scored.logprobs for key, scored in stored.items()}


@pytest.fixture
def play(
    tmp_path: Path, travel: Path, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Play:
    save(tiny, tmp_path / "checkpoints" / "base")
    save(
        load(tmp_path / "checkpoints" / "base", LORA, device=CPU, new_adapter=True),
        tmp_path / "checkpoints" / "vbi_1",
    )
    return Play(tmp_path, travel, monkeypatch)


def changed(path: Path, change: Callable[[LanguageModel], None]) -> None:
    model = load(path, LORA, device=CPU)
    with torch.no_grad():
        change(model)
    save(model, path)


ALL = (len(TRAVEL_PAIRS), len(TRAVEL_PAIRS))


def test_the_same_opponent_is_asked_once_and_its_values_are_taken_over(play: Play) -> None:
    assert play.answers(1) == ALL
    assert play.answers(2) == (0, 0)
    assert play.rows(2) == play.rows(1)
    assert set(play.rows(1)) == {
        (f"p{i}", role) for i in range(len(TRAVEL_PAIRS)) for role in ("gold", "answer")
    }
    for iteration in (1, 2):
        stage = f"self_play_{iteration}_answers"
        assert {a.candidate for a in play.store.answers(stage, "opponent").values()} == {"vbi_1"}
        assert {s.opponent for s in play.store.opponent_logprobs(stage).values()} == {"vbi_1"}


def test_a_moved_run_keeps_its_values(play: Play) -> None:
    assert play.answers(1) == ALL
    moved = play.folder / "moved" / "checkpoints"
    shutil.copytree(play.opponent.parent, moved)
    shutil.rmtree(play.opponent.parent)
    with play.store.stage("vbi_1_feedback") as stage:
        stage.candidate("vbi_1", None, str(moved / "vbi_1"), 1, 10)
    assert play.answers(2) == (0, 0)


def test_a_changed_adapter_is_scored_anew(play: Play) -> None:
    play.answers(1)

    def change(model: LanguageModel) -> None:
        trained = [p for p in model.model.parameters() if p.requires_grad]
        trained[-1][0, 0] += 0.5

    changed(play.opponent, change)
    assert play.answers(2) == ALL
    assert play.rows(2) != play.rows(1)


def test_another_scale_of_the_same_adapter_is_another_opponent(play: Play) -> None:
    play.answers(1)
    path = play.opponent / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 32}))
    assert play.answers(2) == ALL


def test_a_changed_base_under_the_same_adapter_is_scored_anew(play: Play) -> None:
    play.answers(1)
    base = play.folder / "checkpoints" / "base"
    changed(base, lambda model: model.model.get_input_embeddings().weight.mul_(1.01))
    assert play.answers(2) == ALL


def test_another_dtype_is_scored_anew(play: Play) -> None:
    play.answers(1)
    play.settings = SETTINGS | {"model": {"dtype": "bfloat16"}, "lora": {"rank": 2}}
    assert play.answers(2) == ALL


def test_a_changed_prompt_is_scored_anew(play: Play) -> None:
    play.answers(1)
    play.settings = SETTINGS | {"prompt": {"style": "ddl"}}
    assert play.answers(2) == ALL


def test_a_changed_tokenizer_is_scored_anew_where_it_changes_the_tokens(play: Play) -> None:
    play.answers(1)
    path = play.opponent / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-40]
    path.write_text(json.dumps(content))
    _, scored = play.answers(2)
    assert scored > 0
    before, after = (play.store.opponent_logprobs(f"self_play_{i}_answers") for i in (1, 2))
    for key, one in after.items():
        same = one.tokens == before[key].tokens
        assert same or one.logprobs != before[key].logprobs
        assert key[0] in play.scored or same


def test_new_pairs_alone_are_scored_when_others_are_known(play: Play) -> None:
    play.settings = SETTINGS | {"self_play": {"pairs": 4}}
    assert play.answers(1) == (4, 4)
    play.settings = SETTINGS
    assert play.answers(2) == (len(TRAVEL_PAIRS) - 4, len(TRAVEL_PAIRS) - 4)


def test_an_answers_stage_that_was_killed_finds_what_the_iteration_before_it_stored(
    play: Play,
) -> None:
    play.answers(1)
    config = Config.model_validate(SETTINGS)
    context = RunContext(config, play.folder, play.store, play.databases, lambda *_: None)

    def half() -> None:
        with play.store.stage("self_play_2_answers") as stage:
            self_play.answers(context, stage, "self_play", 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    context.close()
    assert play.rows(2) == {}
    assert play.answers(2) == (0, 0)


def test_training_refuses_values_of_other_tokens(play: Play) -> None:
    play.answers(1)
    path = play.opponent / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-40]
    path.write_text(json.dumps(content))
    config = Config.model_validate(SETTINGS)
    context = RunContext(config, play.folder, play.store, play.databases, lambda *_: None)
    with (
        pytest.raises(SpftError, match="other tokens"),
        play.store.stage("self_play_1_train") as stage,
    ):
        self_play.train(context, stage, "self_play", 1)
    context.close()


def test_only_earlier_iterations_of_the_same_system_count(play: Play) -> None:
    play.answers(1)
    opponent = load(play.opponent, Config(), device=CPU)
    weights = models.digest(opponent)
    assert known(play.store, "self_play", 2, weights).logprobs
    # spin runs beside self_play: what it would find would depend on which of them was faster.
    assert not known(play.store, "spin", 2, weights).logprobs
    assert not known(play.store, "self_play", 1, weights).logprobs


# -- digests --------------------------------------------------------------------------------------


def test_the_digest_of_tokens_sees_the_border_and_the_order() -> None:
    digests = {
        tokens_digest((1, 2), (3,)),
        tokens_digest((1,), (2, 3)),
        tokens_digest((2, 1), (3,)),
        tokens_digest((1, 2), (3, 0)),
        tokens_digest((1, 2, 3), ()),
    }
    assert len(digests) == 5
    assert tokens_digest([1, 2], [3]) == tokens_digest((1, 2), (3,))


def test_the_digest_of_a_model_is_of_what_it_computes(
    tiny: LanguageModel, qwen2_folder: Path, tmp_path: Path
) -> None:
    first = models.digest(load(qwen2_folder, Config(), device=CPU))
    shutil.copytree(qwen2_folder, tmp_path / "copy")
    assert models.digest(load(tmp_path / "copy", Config(), device=CPU)) == first
    # The weights are the same, and the model is another: its positions turn faster.
    path = tmp_path / "copy" / "config.json"
    content = json.loads(path.read_text())
    content["rope_parameters"]["rope_theta"] = 500.0
    path.write_text(json.dumps(content))
    assert models.digest(load(tmp_path / "copy", Config(), device=CPU)) != first
    assert models.digest(tiny) != first
