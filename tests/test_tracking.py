"""Training curves reach TensorBoard always, and Weights & Biases where a run asks for it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spftcore.config import resolve
from spftcore.errors import UsageError
from spftcore.tracking import check_tracker, track, write_curves

CURVES = [(1, "loss", 2.0), (1, "margin", 0.5), (2, "loss", 1.0)]


def config(tracker: str) -> Any:
    return resolve([("test", {"run": {"name": "mine", "tracker": tracker}})])


def test_tensorboard_holds_the_curves_of_the_last_try(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_curves(tmp_path / "base", [(1, "loss", 9.0)])
    write_curves(tmp_path / "base", CURVES)
    events = EventAccumulator(str(tmp_path / "base"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]


def test_wandb_gets_one_run_per_stage_in_the_runs_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, float]]] = []
    run = SimpleNamespace(
        log=lambda values, step: logged.append((step, values)),
        finish=lambda: logged.append((-1, {})),
    )
    stand_in = SimpleNamespace(init=lambda **given: began.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    track(config("wandb"), tmp_path, "vbi_1_train", CURVES)
    track(config("none"), tmp_path, "vbi_1_train", CURVES)
    track(config("wandb"), tmp_path, "prepare", [])
    assert [(b["group"], b["name"]) for b in began] == [("mine", "vbi_1_train")]
    assert logged == [
        (1, {"train/loss": 2.0, "train/margin": 0.5}),
        (2, {"train/loss": 1.0}),
        (-1, {}),
    ]


def test_a_tracker_that_fails_costs_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    track(config("wandb"), tmp_path, "base", CURVES)
    assert "not logged in" in caplog.text


def test_a_missing_tracker_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package wandb"):
        check_tracker(config("wandb"))
    check_tracker(config("none"))
