"""Builds and runs the executor's C++ unit tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "csrc" / "tests"


@pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("g++") is None, reason="needs make and g++"
)
def test_the_cpp_unit_tests_pass() -> None:
    done = subprocess.run(
        ["make", "--silent", "-j2", "-C", str(FOLDER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed checks" in done.stdout
