"""What a user reads when the compiler or a header is missing: one sentence with the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build_with(compiler: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--force",
         "--build-temp", str(scratch / "temp"), "--build-lib", str(scratch / "lib")],
        cwd=ROOT, env={**os.environ, "CXX": str(compiler)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def fake_compiler(path: Path, refuses: str) -> Path:
    """A compiler that builds everything but sources holding the text `refuses`."""
    path.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case "$word" in *.cpp)\n'
        f'  if grep -q "{refuses}" "$word"; then exit 1; fi;; esac; done\n'
        "exit 0\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("refuses", "words", "package"),
    [
        (None, "a C++ compiler", "g++"),
        ("concepts", "a C++20 compiler", "g++"),
        ("sqlite3ext.h", "the header sqlite3ext.h", "libsqlite3-dev"),
        ("Python.h", "the header Python.h", "-dev"),
    ],
)
def test_a_missing_prerequisite_is_one_sentence_with_the_package(
    tmp_path: Path, refuses: str | None, words: str, package: str
) -> None:
    compiler = tmp_path / "absent-c++"
    if refuses is not None:
        compiler = fake_compiler(tmp_path / "c++", refuses)
    done = build_with(compiler, tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("Building spftcore")]
    assert len(sentences) == 1
    assert words in sentences[0]
    assert package in sentences[0]
    assert "apt-get install" in sentences[0]
