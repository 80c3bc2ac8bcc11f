"""The cost model counts what the stages do."""

from __future__ import annotations

import runpy
from pathlib import Path

from spftcore.config import Config
from spftcore.costs import Sizes, Work, work

SIZES = Sizes(
    seeds=100,
    questions=10,
    prompt=50.0,
    sql=10.0,
    question_prompt=40.0,
    question=8.0,
    model_bytes=1e6,
    saved_bytes=1e6,
)


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
