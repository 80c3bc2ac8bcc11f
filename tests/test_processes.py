"""What several processes say when something is wrong with one of them, or with their start."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch

from spftcore import runner, train
from spftcore.config import Config
from spftcore.errors import SpftError, UsageError
from spftcore.models import LanguageModel, gathered
from spftcore.processes import Processes
from spftcore.rollout.engines import Engines
from spftcore.stages.plan import Stage
from spftcore.training.stopping import Stop

SECOND = Processes(rank=1, size=2, on_machine=2)


def in_a_stage(folder: Path, error: Exception) -> None:
    """What the second of two processes does with an error of a stage."""

    def work(*_: Any) -> None:
        raise error

    store: Any = None
    engines, stop = Engines(), Stop()
    runner._run_together(
        Stage("base", (), work), Config(), folder, folder, store, SECOND, engines, stop, None
    )


def test_a_process_that_loses_another_leaves_its_traceback_where_it_is(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    log.write_text("of the first")
    lost = RuntimeError("[/x/gloo/transport/tcp/pair.cc:553] \nConnection closed by peer.")
    with pytest.raises(SpftError, match="another process of this run was lost"):
        in_a_stage(tmp_path, lost)
    assert log.read_text() == "of the first"
    with pytest.raises(SpftError, match="shapes do not match"):
        in_a_stage(tmp_path, RuntimeError("shapes do not match"))
    assert "shapes do not match" in log.read_text()


def test_a_dry_run_of_several_processes_is_refused_by_the_first_alone() -> None:
    dry = partial(train._work, Config(), True, SimpleNamespace())
    with pytest.raises(UsageError, match="without the launcher"):
        dry(Processes(rank=0, size=2))
    dry(SECOND)


@pytest.mark.parametrize("size", ["2", ""])
def test_a_size_without_a_launcher_is_a_usage_error(
    size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what accelerate sets goes again afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORLD_SIZE", size)
    shared = dict(accelerate.PartialState._shared_state)
    accelerate.PartialState._shared_state.clear()
    try:
        assert train.main([]) == 2
    finally:
        accelerate.PartialState._shared_state.clear()
        accelerate.PartialState._shared_state.update(shared)
    assert "unset it" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("asked", "started", "gpu", "message"),
    [
        ("cpu", "cuda", True, "option --cpu"),
        ("auto", "cpu", True, "run.device=cpu"),
        ("cuda", "cpu", True, "run.device=cpu"),
        ("auto", "cpu", False, None),
        ("cpu", "cpu", True, None),
        ("auto", "cuda", True, None),
    ],
)
def test_processes_started_for_another_device_are_refused(
    asked: str, started: str, gpu: bool, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SimpleNamespace(device=torch.device(started))
    monkeypatch.setattr(accelerate, "PartialState", lambda: state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    if message is None:
        SECOND.check_device(asked)
    else:
        with pytest.raises(UsageError, match=message):
            SECOND.check_device(asked)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_holds_the_gathered_weights(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight  # tied
    calls = []
    for parameter in model.parameters():

        def full_tensor(parameter: torch.Tensor = parameter) -> torch.Tensor:
            calls.append(1)
            return parameter.detach() + 1

        parameter.full_tensor = full_tensor
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    weights = gathered(LanguageModel(model, None))
    assert weights is not None
    assert len(calls) == 2  # an exchange that every process takes part in
    if rank:
        assert not weights
    else:
        assert weights["0.weight"] is weights["1.weight"]
        assert torch.equal(weights["1.bias"], model[1].bias + 1)
