"""The cost model: the work of each stage in hand-worked numbers, and the time it takes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from spftcore.config import Config
from spftcore.costs import Sizes, Work, by_phase, replay, work
from spftcore.stages.plan import plan

SIZES = Sizes(
    seeds=100,
    questions=40,
    prompt=50,
    sql=10,
    question_prompt=30,
    question=20,
    model_bytes=1000,
    saved_bytes=10,
)
CONFIG = Config.model_validate(
    {
        "model": {"name_or_path": "some/model"},
        "lora": {"rank": 8},
        "vbi": {
            "rounds": 2,
            "count": 80,
            "feedback": 20,
            "ranking": 10,
            "steps": 7,
            "batch_size": 4,
        },
        "sql_to_text": {"steps": 3, "batch_size": 2, "round_trip": False},
        "self_play": {"iterations": 2, "steps": 5, "batch_size": 2, "pairs": 60},
        "baselines": ["sft"],
    }
)


def test_the_work_of_each_stage() -> None:
    found = {stage.name: amount for stage, amount in work(CONFIG, SIZES)}
    assert found["prepare"] == Work(verified=340)
    assert found["base"] == Work(moved=1000)  # the user's model is only loaded
    assert found["vbi_1_train"] == Work(trained=7 * 4 * 60, moved=1010)
    assert found["sft"] == Work(trained=2 * 7 * 4 * 60, moved=1010)
    assert found["sql_to_text_1"] == Work(trained=3 * 2 * 50, moved=1010)
    # 80 + 20 + 10 pairs and a fifth more queries.
    assert found["vbi_1_synthesize"] == Work(
        read=132 * 30, written=132 * 20, queries=132, moved=1000
    )
    assert found["vbi_2_synthesize"].queries == pytest.approx(120)
    assert found["vbi_1_feedback"] == Work(read=30 * 50, written=30 * 10, verified=30, moved=1000)
    assert found["self_play_1_answers"] == Work(
        scored=60 * 70, read=60 * 50, written=60 * 10, verified=60, moved=1000
    )
    assert found["self_play_1_train"] == Work(
        trained=5 * 2 * 70, read=10 * 50, written=10 * 10, verified=10, moved=1010
    )
    assert found["evaluate_vbi"] == Work(read=2000, written=400, verified=40, moved=1000)


def test_a_round_trip_is_asked_and_judged() -> None:
    config = CONFIG.model_copy(
        update={"sql_to_text": CONFIG.sql_to_text.model_copy(update={"round_trip": True})}
    )
    without = dict(work(CONFIG, SIZES))
    for stage, amount in work(config, SIZES):
        before = next(a for s, a in without.items() if s.name == stage.name)
        more = 1.5 * before.queries
        assert amount.verified - before.verified == pytest.approx(more)
        assert amount.written - before.written == pytest.approx(more * 10)


def test_a_tiny_model_is_trained_first() -> None:
    config = Config.model_validate({"base": {"steps": 3, "batch_size": 2}})
    base = next(amount for stage, amount in work(config, SIZES) if stage.name == "base")
    assert base == Work(trained=3 * 2 * 60, moved=10)


def test_every_stage_of_the_plan_has_its_work() -> None:
    assert [stage.name for stage, _ in work(CONFIG, SIZES)] == [s.name for s in plan(CONFIG)]


def test_seconds_are_work_by_rate_and_nothing_takes_no_time() -> None:
    seconds = Work(trained=100, written=30).at(Work(trained=50, written=10))
    assert seconds == Work(trained=2, written=3)
    assert seconds.total == 5
    assert seconds.bottleneck == "written"


def test_phases_hold_all_stages() -> None:
    amounts = {stage.name: amount for stage, amount in work(CONFIG, SIZES)}
    phases = by_phase(amounts)
    assert sum(phases.values(), Work()).total == pytest.approx(sum(amounts.values(), Work()).total)
    assert phases["baselines"] == amounts["sft"]
    assert (
        phases["fine-tuning"] == amounts["base"] + amounts["vbi_1_train"] + amounts["vbi_2_train"]
    )


def test_two_workers_run_what_does_not_wait() -> None:
    stages = {stage.name: stage for stage in plan(CONFIG)}
    chosen = [stages[name] for name in ("prepare", "base", "sql_to_text_0", "sft")]
    seconds = [(stage, float(n)) for stage, n in zip(chosen, (1, 5, 4, 3), strict=True)]
    assert replay(seconds, 1) == 13
    assert replay(seconds, 2) == 1 + 5 + 3  # sft waits for the base, beside the other model


def test_the_answers_of_dpo_are_asked_for_once() -> None:
    config = Config.model_validate(
        {"baselines": ["dpo", "spin"], "self_play": {"iterations": 3, "pairs": 0}}
    )
    amounts = {stage.name: amount for stage, amount in work(config, SIZES)}
    assert amounts["dpo_1_answers"].written > 0
    # Its reference stays the model it began with: the later stages only point to the first.
    assert amounts["dpo_2_answers"] == amounts["dpo_3_answers"] == Work()
    assert amounts["spin_3_answers"].verified == SIZES.seeds


def test_no_more_completions_are_decoded_together_than_have_room() -> None:
    scaling = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "scaling.py"))
    gpu, shape = scaling["H100"], scaling["QWEN_32B"]
    # 72 GB for weights (65.6) and caches of 1,535 tokens of 262,144 bytes: 15 completions.
    assert (2 * 64 * 8 * 128 * 2, 2 * 32.8e9) == (262_144, 65.6e9)
    cache = 15 * 1_535 * 262_144
    expected = 15 / ((65.6e9 + cache) / (3.35e12 * 0.6))
    found = scaling["rates"](gpu, shape, 1, 1_535.0, adapters=True).written
    assert abs(found / expected - 1) < 1e-9
