"""Builds and runs the executor's C++ unit tests under the sanitizers, and the fuzz targets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("g++") is None, reason="needs make and g++"
)


def make(folder: str, target: str, *settings: str) -> str:
    done = subprocess.run(
        ["make", "--silent", "-j2", "-C", str(CSRC / folder), target, *settings],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("sanitizers", ["asan", pytest.param("tsan", marks=pytest.mark.heavy)])
def test_the_cpp_unit_tests_pass_under_the_sanitizers(sanitizers: str) -> None:
    assert " 0 failed checks" in make("tests", sanitizers)


@pytest.mark.heavy
def test_the_fuzz_targets_find_nothing_in_a_short_run() -> None:
    make("fuzz", "run", "RUNS=5000")
