"""Stage 2 chooses main and opponent from the pool and turns verdicts on answers into rewards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU

from spftcore.config import Config
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel, load, save
from spftcore.pairs import Pair
from spftcore.stages import self_play
from spftcore.stages.context import RunContext
from spftcore.stages.plan import plan
from spftcore.store import Candidate, Store
from spftcore.training.objectives import Preference, PreferencePair


def candidate(name: str, right: int, parent: str | None = None, total: int = 100) -> Candidate:
    return Candidate(name, parent, f"{name}_stage", Path(name), right, total)


# -- the pool -----------------------------------------------------------------------------------


def test_the_best_plays_against_the_worst() -> None:
    pool = [candidate("vbi_1", 40), candidate("vbi_2", 60), candidate("vbi_3", 50)]
    assert self_play.choose(pool, "base") == self_play.Match("vbi_2", "vbi_2", "vbi_1", "vbi_1")
    assert self_play.best(pool).id == "vbi_2"


def test_accuracy_counts_and_not_the_number_of_right_answers() -> None:
    # Answers left unjudged lower the total of one candidate.
    pool = [candidate("vbi_1", 45, total=100), candidate("vbi_2", 44, total=80)]
    assert self_play.best(pool).id == "vbi_2"


def test_among_equals_the_later_is_main_and_the_earlier_opponent() -> None:
    # The pool comes in the order of age; by name, self_play_1 would come first.
    pool = [candidate("vbi_9", 50), candidate("vbi_10", 50), candidate("self_play_1", 50)]
    match = self_play.choose(pool, "base")
    assert (match.main, match.opponent) == ("self_play_1", "vbi_9")
    assert self_play.best(pool).id == "self_play_1"


def test_the_store_gives_the_pool_in_the_order_of_age(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite")
    names = ["vbi_9", "vbi_10", "self_play_1"]
    for name in names:
        with store.stage(f"{name}_train") as stage:
            stage.candidate(name, None, name, 1, 2)
    assert [c.id for c in store.candidates()] == names
    assert self_play.best(store.candidates()).id == "self_play_1"
    store.close()


def test_a_single_candidate_plays_against_the_base_it_came_from() -> None:
    match = self_play.choose([candidate("vbi_1", 40)], "BASE")
    assert match == self_play.Match("vbi_1", "vbi_1", "base", "BASE")


def test_the_opponent_may_be_better_than_its_predecessors() -> None:
    # After an iteration that made things worse, the worst is the newest.
    pool = [candidate("vbi_1", 50), candidate("vbi_2", 60), candidate("self_play_1", 30, "vbi_2")]
    match = self_play.choose(pool, "base")
    assert (match.main, match.opponent) == ("vbi_2", "self_play_1")


# -- the plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"vbi": {"rounds": 1}},
        {"vbi": {"rounds": 4}, "self_play": {"iterations": 3}},
        {"baselines": []},
        {"baselines": ["dpo"]},
        {"baselines": ["sft", "spin", "exspin", "dpo"]},
        {"self_play": {"iterations": 0}, "baselines": ["sft"]},
    ],
)
def test_every_stage_stands_once_and_after_what_it_needs(changed: dict[str, Any]) -> None:
    stages = plan(Config.model_validate(changed))
    seen: set[str] = set()
    for stage in stages:
        assert stage.name not in seen
        assert seen.issuperset(stage.needs)
        seen.add(stage.name)
    assert {"prepare", "base", "export", "evaluate_vbi"} <= seen
    played = changed.get("self_play", {}).get("iterations", 2) > 0
    assert ("evaluate_self_play" in seen) == played


def test_without_iterations_no_self_play_baseline_is_evaluated() -> None:
    config = Config.model_validate({"self_play": {"iterations": 0}})
    assert config.baselines == ("sft", "spin")
    names = [stage.name for stage in plan(config)]
    assert "evaluate_sft" in names
    assert "evaluate_spin" not in names


# -- an iteration -------------------------------------------------------------------------------

# (gold, the opponent's answer, what the executor says of it)
PLAYED = (
    ("select count(*) from city", "select count(*) from city", "right"),
    ("select name from city where country = 'Peru'", "select name from city", "wrong"),
    # Another text with the same rows: SPIN calls it wrong, the method does not.
    ("select guest from visit where nights>2", "select guest from visit where 2 < nights", "right"),
    ("select distinct guest from visit", "selec nonsense", "wrong"),
    ("select name from city where country = 'Chile'", "select name from city where 0", "unjudged"),
    ("select max(nights) from visit", "", "wrong"),
)  # fmt: skip


class Run:
    """A run whose stages up to the first iteration are in the store; the opponent's answers are
    those of PLAYED."""

    def __init__(self, folder: Path, databases: Path, model: LanguageModel) -> None:
        self.store = Store(folder / "run.sqlite")
        config = Config.model_validate(
            {
                "prompt": {"style": "linked"},
                "vbi": {"rounds": 1},
                "self_play": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
            }
        )
        self.context = RunContext(config, folder, self.store, databases, lambda *_: None)
        self.paths = {name: folder / "checkpoints" / name for name in ("sft", "vbi_1", "worse")}
        for name, path in self.paths.items():
            if name == "worse":
                with torch.no_grad():
                    for parameter in model.model.parameters():
                        parameter.mul_(0.9)
            save(model, path)
        with self.store.stage("prepare") as stage:
            stage.pairs(
                Pair(f"p{i}", "travel", f"Question {i}?", gold, split="train", source="seed")
                for i, (gold, _, _) in enumerate(PLAYED)
            )
        with self.store.stage("base") as stage:
            stage.result = {"path": str(self.paths["worse"])}
        with self.store.stage("sft") as stage:
            stage.result = {"path": str(self.paths["sft"])}
        with self.store.stage("vbi_1_synthesize"):
            pass
        with self.store.stage("vbi_0_feedback") as stage:
            stage.candidate("worse", None, str(self.paths["worse"]), 1, 10)
        with self.store.stage("vbi_1_feedback") as stage:
            stage.candidate("vbi_1", None, str(self.paths["vbi_1"]), 5, 10)

    def play(self, system: str, monkeypatch: pytest.MonkeyPatch) -> list[PreferencePair]:
        """Plays iteration 1 and returns what was trained on."""

        def completions(
            _: RunContext, __: LanguageModel, prompts: Sequence[str], ___: object = None
        ) -> Any:
            answers = [answer for _, answer, _ in PLAYED][: len(prompts)]
            return reversed(list(enumerate(answers)))  # finished in any order

        trained: list[PreferencePair] = []

        def fit(_: object, items: Sequence[PreferencePair], *__: Any, **___: Any) -> None:
            trained.extend(items)

        monkeypatch.setattr(RunContext, "completions", completions)
        monkeypatch.setattr("spftcore.stages.context.fit", fit)
        with self.store.stage(f"{system}_1_answers") as stage:
            self_play.answers(self.context, stage, system, 1)
        with self.store.stage(f"{system}_1_train") as stage:
            self_play.train(self.context, stage, system, 1)
        return trained


@pytest.fixture
def run(tmp_path: Path, travel: Path, tiny: LanguageModel) -> Any:
    made = Run(tmp_path, travel, tiny)
    yield made
    made.store.close()


def test_answers_are_judged_by_what_they_return(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.play("self_play", monkeypatch)
    answers = run.store.answers("self_play_1_answers", "opponent")
    assert [answers[f"p{i}"].verdict for i in range(6)] == [verdict for _, _, verdict in PLAYED]
    result = run.store.result("self_play_1_answers")
    assert (result["main"], result["opponent"]) == ("vbi_1", "worse")
    assert (result["right"], result["wrong"], result["unjudged"]) == (2, 3, 1)
    assert {answer.candidate for answer in answers.values()} == {"worse"}


def test_a_wrong_answer_earns_1_a_right_one_0_and_an_unjudged_one_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = run.play("self_play", monkeypatch)
    assert [item.reward for item in items] == [0.0, 1.0, 0.0, 1.0, 1.0]  # Eq. 2
    decode = load(run.paths["vbi_1"], Config(), device=CPU).tokenizer.decode
    judged = [(gold, answer) for gold, answer, verdict in PLAYED if verdict != "unjudged"]
    for item, (gold, answer) in zip(items, judged, strict=True):
        assert decode(item.gold.completion, skip_special_tokens=True) == gold
        assert decode(item.answer.completion, skip_special_tokens=True) == answer
        assert item.gold.prompt == item.answer.prompt


def test_spin_calls_every_answer_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [item.reward for item in run.play("spin", monkeypatch)] == [1.0] * 5


@pytest.mark.parametrize("system", ["exspin", "dpo"])
def test_the_other_baselines_see_the_verdicts(
    system: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = run.play(system, monkeypatch)
    assert [item.reward for item in items] == [1.0, 1.0, 1.0]  # pairs with R = 0 are left out


def test_the_references_are_the_opponents_logprobs_with_end_of_sequence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = run.play("self_play", monkeypatch)
    opponent = load(run.paths["worse"], Config(), device=CPU)
    end = opponent.tokenizer.eos_token_id
    for item in items:
        for sequence, reference in (
            (item.gold, item.gold_reference),
            (item.answer, item.answer_reference),
        ):
            assert sequence.completion[-1] == end
            ids = [*sequence.prompt, *sequence.completion]
            with torch.no_grad():
                scores = opponent.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            first = len(sequence.prompt)
            expected = [float(scores[i - 1, ids[i]]) for i in range(first, len(ids))]
            torch.testing.assert_close(
                reference.double(), torch.tensor(expected).double(), atol=1e-5, rtol=1e-5
            )


def test_spin_begins_with_margin_0_since_it_plays_itself(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = run.play("spin", monkeypatch)
    main = load(run.paths["sft"], Config(), device=CPU)
    _, statistics = Preference(LossConfig("spin", 1.0)).losses(main, items)
    assert statistics["margin"] / len(items) == pytest.approx(0.0, abs=1e-4)


def test_the_updated_main_joins_the_pool_and_a_baseline_does_not(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.play("spin", monkeypatch)
    assert [c.id for c in run.store.candidates()] == ["worse", "vbi_1"]
    run.play("self_play", monkeypatch)
    *_, last = run.store.candidates()
    assert (last.id, last.parent) == ("self_play_1", "vbi_1")
    assert not last.path.is_absolute()  # the run's folder may move
    load(run.context.directory / last.path, Config(), device=CPU)


def test_with_one_candidate_the_base_is_the_opponent(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run.store.stage("vbi_0_feedback"):  # repeated without a result: its row is gone
        pass
    run.play("self_play", monkeypatch)
    assert run.store.result("self_play_1_answers")["opponent"] == "base"
    assert [c.id for c in run.store.candidates()] == ["vbi_1", "self_play_1"]
