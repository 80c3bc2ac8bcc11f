"""A run that verifies and generates on a cluster gives what it gives without, killed or not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_train_processes import SMALL

from spftcore.cluster.connection import connected
from spftcore.cluster.run import open_cluster_engine
from spftcore.config import resolve
from spftcore.errors import SpftError
from spftcore.store import Store

ON_CLUSTER = ["--cluster.address=local", "--cluster.engines=1"]
ANSWERS = "select stage, purpose, pair, sql, status, verdict, message from answers order by 1, 2, 3"
LOSSES = "select stage, step, value from metrics where name = 'loss' order by 1, 2"


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpftError, match=r'pip install "spftcore\[cluster\]"'):
        connected("auto")


def test_an_address_where_nobody_listens_is_an_error_at_once() -> None:
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(SpftError, match="ray start --head"):
        connected(address)


def test_fewer_engines_than_processes_is_an_error_before_anything_is_started() -> None:
    config = resolve([("a file", {"cluster": {"address": "auto", "engines": 2}})])
    with pytest.raises(SpftError, match=r"Set cluster\.engines to 3 or more"):
        open_cluster_engine(config, "nowhere", 3)


def command(folder: Path, name: str, *options: str) -> list[str]:
    small = [f"--{key}={value}" for key, value in SMALL.items()]
    own = [f"--run.directory={folder}", f"--run.name={name}", "--run.workers=1"]
    return [sys.executable, "-m", "spftcore.train", *own, *small, *options]


@pytest.mark.heavy
def test_a_run_on_a_cluster_killed_and_resumed_is_the_run_without(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path, "alone"), env=environment, check=True)
    killed = subprocess.Popen(
        command(tmp_path, "cluster", *ON_CLUSTER),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.startswith("vbi_1_train"):  # the feedback, which is generated and judged, is next
            os.killpg(killed.pid, signal.SIGKILL)
            break
    killed.wait()
    options = [*ON_CLUSTER, "--resume"]
    subprocess.run(command(tmp_path, "cluster", *options), env=environment, check=True)
    alone, cluster = (Store(tmp_path / name / "run.sqlite") for name in ("alone", "cluster"))
    assert cluster.finished() == alone.finished()
    assert cluster.pairs() == alone.pairs()
    for text in (ANSWERS, LOSSES):
        expected = [tuple(row) for row in alone.query(text)]
        assert len(expected) > 20
        assert [tuple(row) for row in cluster.query(text)] == expected
