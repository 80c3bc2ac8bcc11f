"""A training that was stopped or killed goes on as if nothing had happened, to the last bit."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, corpus, tiny_settings
from safetensors.torch import load_file
from training_items import preference_pairs, sequences, settings

from spftcore.config import Config
from spftcore.errors import SpftError
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel, build_tiny, load
from spftcore.training.checkpoints import KEPT, Checkpoints
from spftcore.training.loop import fit
from spftcore.training.objectives import Preference, Supervised
from spftcore.training.stopping import Stop, Stopped

STEPS = 8
MEASURED = ("tokens/s", "peak memory GB")  # of the machine, not of the training


class Killed(Exception):
    """Ends a training as SIGKILL would: what it has not written is lost."""


def drops() -> LanguageModel:
    """The model every training below begins from; with dropout, so random state matters."""
    return build_tiny(tiny_settings(dropout=0.2), corpus(), seed=1)


def run(
    model: LanguageModel,
    folder: Path | None,
    *,
    items: Any = None,
    objective: Any = None,
    kill_at: int = 0,
    stop: Stop | None = None,
    stop_at: int = 0,
    every: int = 2,
    seed: int = 11,
    **changed: Any,
) -> list[dict[str, float]]:
    """Trains with a checkpoint every two steps. Returns the reports, what was measured left out."""
    reports: list[dict[str, float]] = []

    def report(step: int, statistics: dict[str, float]) -> None:
        kept = {name: value for name, value in statistics.items() if name not in MEASURED}
        reports.append({"step": step, **kept})
        if step == kill_at:
            raise Killed
        if stop is not None and step == stop_at:
            stop.request()

    fit(
        model,
        sequences(30, seed=5) if items is None else items,
        objective or Supervised(),
        settings(**{"steps": STEPS, "batch_size": 4, "warmup": 0.2, **changed}),
        seed=seed,
        dropout=objective is None,
        report=report,
        checkpoints=Checkpoints(folder, steps=every) if folder else None,
        stop=stop,
    )
    return reports


def weights(model: LanguageModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.model.parameters()]


def assert_same_bits(one: LanguageModel, other: LanguageModel) -> None:
    for a, b in zip(weights(one), weights(other), strict=True):
        assert torch.equal(a, b)


def newest(folder: Path) -> Path:
    return max(folder.glob("step_*"))


# -- killed and stopped -------------------------------------------------------------------------


@pytest.mark.parametrize("kill_at", [1, 2, 5, STEPS])  # 2: reported, and not yet saved
def test_a_killed_training_ends_with_the_bits_and_curve_of_an_uninterrupted_one(
    tmp_path: Path, kill_at: int
) -> None:
    whole, killed = drops(), drops()
    expected = run(whole, None)
    with pytest.raises(Killed):
        run(killed, tmp_path, kill_at=kill_at)
    resumed = drops()
    torch.rand(7)  # whatever else the process has drawn
    assert run(resumed, tmp_path) == expected
    assert_same_bits(resumed, whole)


def test_self_play_resumes_to_the_same_bits(tmp_path: Path, tiny: LanguageModel) -> None:
    tiny.model.eval()
    play = {
        "items": preference_pairs(tiny, 12, seed=2),
        "objective": Preference(LossConfig("spft", 0.5)),
    }
    whole, killed, resumed = drops(), drops(), drops()
    expected = run(whole, None, **play)
    with pytest.raises(Killed):
        run(killed, tmp_path, kill_at=5, **play)
    assert run(resumed, tmp_path, **play) == expected
    assert_same_bits(resumed, whole)


def test_adapters_resume_to_the_same_bits_and_the_frozen_base_is_not_saved(
    tmp_path: Path, qwen2_folder: Path
) -> None:
    config = Config.model_validate({"lora": {"rank": 4, "dropout": 0.2}})
    whole, killed, resumed = (
        load(qwen2_folder, config, device=CPU, new_adapter=True) for _ in range(3)
    )
    expected = run(whole, None)
    with pytest.raises(Killed):
        run(killed, tmp_path, kill_at=5)
    stored = load_file(newest(tmp_path) / "rank_0.safetensors")
    names = [name for name in stored if name.startswith("parameter/")]
    assert names
    assert all("lora_" in name for name in names)
    assert run(resumed, tmp_path) == expected
    assert_same_bits(resumed, whole)


@pytest.mark.heavy
def test_sigkill_at_random_moments_changes_no_bit(tmp_path: Path, qwen2_folder: Path) -> None:
    script = Path(__file__).with_name("training_killed.py")
    command = [sys.executable, str(script), str(tmp_path), str(qwen2_folder)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    for case in ("full", "lora"):
        whole, killed = tmp_path / case / "whole", tmp_path / case / "killed"
        curves = [json.loads((folder / "curve.json").read_text()) for folder in (whole, killed)]
        assert int((killed / "kills").read_text()) > 0
        losses, resumed = ([(r["step"], r["loss"]) for r in curve] for curve in curves)
        assert resumed == losses
        expected, found = (load_file(f / "weights.safetensors") for f in (whole, killed))
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_stop_saves_the_step_at_work_and_the_rest_follows_on_resume(tmp_path: Path) -> None:
    whole, stopped, resumed = drops(), drops(), drops()
    expected = run(whole, None)
    left: list[str] = []
    stop = Stop(otherwise=lambda: left.append("at once"))
    with pytest.raises(Stopped):
        run(stopped, tmp_path, stop=stop, stop_at=4, every=0)
    # Asked for while step 4 was reported, seen in step 5.
    assert [folder.name for folder in tmp_path.iterdir()] == ["step_00000005"]
    assert not left
    assert run(resumed, tmp_path) == expected
    assert_same_bits(resumed, whole)
    stop.request()  # nothing trains any more
    assert left == ["at once"]


def test_a_stop_in_the_last_step_is_not_lost() -> None:
    with pytest.raises(Stopped):
        run(drops(), None, stop=Stop(), stop_at=STEPS)


def test_bad_steps_are_counted_on_across_a_resume(tmp_path: Path) -> None:
    class Poisoned(Supervised):
        def losses(self, model: Any, items: Any) -> Any:
            summed, statistics = super().losses(model, items)
            return summed * float("nan"), statistics

    with pytest.raises(Killed):
        run(drops(), tmp_path, objective=Poisoned(), kill_at=4)
    # Two were saved; the third of the resumed ones is the fifth.
    with pytest.raises(SpftError, match="at step 5"):
        run(drops(), tmp_path, objective=Poisoned())


def test_sigterm_may_come_again_while_a_step_ends_and_afterwards_ends_the_process() -> None:
    script = """
import os, signal
from spftcore.training.stopping import Stop, Stopped

stop = Stop(otherwise=lambda: os._exit(7))
stop.on_signals(signal.SIGTERM)
try:
    with stop.heeded():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        while not stop.requested:
            pass
except Stopped:
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        pass
"""
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (7, b"")


# -- what lies on the disk ------------------------------------------------------------------------


def interrupted(folder: Path, kill_at: int = 7) -> None:
    """Leaves the checkpoints of a killed training: steps 4 and 6."""
    with pytest.raises(Killed):
        run(drops(), folder, kill_at=kill_at)


def test_two_are_kept_and_nothing_in_them_needs_unpickling(tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step_00000004", "step_00000006"]
    assert KEPT == 2
    for folder in tmp_path.iterdir():
        names = sorted(f.name for f in folder.iterdir())
        assert names == ["SHA256SUMS", "rank_0.safetensors", "state.json"]
        command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        json.loads((folder / "state.json").read_text())


def flip(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def cut(folder: Path) -> None:
    path = folder / "rank_0.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def remove(folder: Path) -> None:
    (folder / "state.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [flip("rank_0.safetensors"), flip("state.json"), flip("SHA256SUMS"), cut, remove],
    ids=["weights", "state", "sums", "cut", "missing"],
)
def test_the_one_before_a_damaged_checkpoint_is_used_with_a_message(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole, resumed = drops(), drops()
    expected = run(whole, None)
    interrupted(tmp_path)
    damage(newest(tmp_path))
    assert run(resumed, tmp_path) == expected
    assert_same_bits(resumed, whole)
    (message,) = caplog.messages
    assert "step_00000006 is damaged" in message
    assert "the one before it is used" in message


def test_with_all_damaged_the_training_starts_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, again = drops(), drops()
    expected = run(whole, None)
    interrupted(tmp_path)
    for folder in tmp_path.iterdir():
        flip("rank_0.safetensors")(folder)
    assert run(again, tmp_path) == expected
    assert_same_bits(again, whole)
    assert len(caplog.messages) == 2


def test_a_checkpoint_that_was_being_written_is_ignored(tmp_path: Path) -> None:
    whole, resumed = drops(), drops()
    expected = run(whole, None)
    interrupted(tmp_path)
    partial = tmp_path / "step_00000008.partial"
    partial.mkdir()
    (partial / "rank_0.safetensors").write_bytes(b"half")
    assert run(resumed, tmp_path) == expected
    assert_same_bits(resumed, whole)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"schedule": "cosine"}, "schedule"),
        ({"steps": STEPS + 1}, "steps"),
        ({"seed": 12}, "seed"),
        ({"items": sequences(31, seed=5)}, "data"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_what_differs(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    interrupted(tmp_path)
    with pytest.raises(SpftError, match=rf"differs in {named}\. .*delete") as refused:
        run(drops(), tmp_path, **changed)
    assert str(tmp_path) in str(refused.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = build_tiny(tiny_settings(dropout=0.2), corpus(), seed=2)  # the same shapes
    with pytest.raises(SpftError, match="differs in model"):
        run(other, tmp_path)


def test_checkpoints_are_due_by_steps_or_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    by_steps, by_time, never = (
        Checkpoints(tmp_path, steps=3),
        Checkpoints(tmp_path, seconds=300),
        Checkpoints(tmp_path),
    )
    now = 299.0
    assert [by_steps.due(step) for step in range(1, 7)] == [False, False, True] * 2
    assert not by_time.due(1)
    now = 300.0
    assert by_time.due(1)
    assert not never.due(1000)


# -- through the command ------------------------------------------------------------------------


def finished_stages(run: Path) -> set[str]:
    try:
        with closing(sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True)) as store:
            return {name for (name,) in store.execute("select name from stages")}
    except sqlite3.OperationalError:  # it is just being made
        return set()


def stop_command(run: Path, until: Callable[[], bool]) -> str:
    """Starts or continues a run, stops it with SIGTERM once `until` holds; what it said."""
    options = [f"--run.directory={run.parent}", f"--run.name={run.name}", "--base.steps=40"]
    options += ["--sql_to_text.scratch_steps=40", "--training.save_steps=1", "--data.max_test=30"]
    options += ["--resume"] * (run / "config.yaml").exists()
    process = subprocess.Popen(
        [sys.executable, "-m", "spftcore.train", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while not until():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 1
    return errors


@pytest.mark.heavy
def test_sigterm_keeps_the_training_of_a_run_and_resume_completes_its_curve(tmp_path: Path) -> None:
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    state = stopped / "checkpoints" / ".training" / "base"
    message = stop_command(stopped, state.is_dir)
    assert "--resume --run.name stopped" in " ".join(message.split())
    assert "base" not in finished_stages(stopped)
    assert list(state.glob("step_*[0-9]"))
    # The state goes when its stage is complete.
    stop_command(stopped, lambda: "base" in finished_stages(stopped) and not state.exists())
    stop_command(whole, lambda: "base" in finished_stages(whole))
    query = "select step, value from metrics where stage = 'base' and name = 'loss' order by step"
    curves = []
    for run in (stopped, whole):
        with closing(sqlite3.connect(run / "run.sqlite")) as store:
            curves.append(store.execute(query).fetchall())
    assert len(curves[0]) == 40
    assert curves[0] == curves[1]
