"""Every escape and bomb ends in its status, in one process whose memory stays small.

All queries run in a child: a crash of one is then a failure that names it, and the child's peak of
memory is theirs alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import executor_attacks
import executor_bombs
import pytest

from spftcore.verify import Executor, Limits, Status

# Few enough steps to be quick, seconds enough that no clock decides on a busy machine.
# Longer texts than by default, so that the bombs are not all stopped by their length.
LIMITS = Limits(steps=2_000_000, seconds=300, sql_bytes=100_000, temp_bytes=32 << 20)
GROWTH = 256 << 20

CATEGORIES = {**executor_attacks.CATEGORIES, **executor_bombs.CATEGORIES}
NAMES = [(category, name) for category, cases in CATEGORIES.items() for name in cases]


def peak_memory() -> int:
    """The largest resident size this process ever had, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status holds no VmHWM")


def attack(database: str) -> Iterator[dict[str, object]]:
    """Runs every case one after the other on one thread; yields what became of each."""
    with Executor(threads=1, limits=LIMITS) as executor:
        executor.execute([(database, "SELECT 1")])
        before = peak_memory()
        for category, name in NAMES:
            sql = CATEGORIES[category][name][0]
            (outcome,) = executor.execute([(database, sql)])
            yield {
                "case": [category, name],
                "status": outcome.status,
                "message": outcome.message,
                "seconds": outcome.seconds,
                "growth": peak_memory() - before,
            }


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


Outcomes = dict[tuple[str, str], dict[str, object]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("escapes")
    connection = sqlite3.connect(path / "target.sqlite")
    connection.executescript(executor_attacks.SCHEMA)
    connection.close()
    return path


@pytest.fixture(scope="module")
def attacked(folder: Path) -> tuple[Outcomes, dict[str, str], dict[str, str]]:
    """Outcomes by case, and the folder's files before and after."""
    before = contents(folder)
    done = subprocess.run(
        [sys.executable, __file__, "target.sqlite"],
        cwd=folder,  # relative names in the queries would appear here
        env={**os.environ, "TMPDIR": str(folder), "SQLITE_TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes: Outcomes = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        outcomes[tuple(row["case"])] = row
    if done.returncode != 0:
        after = NAMES[len(outcomes)] if len(outcomes) < len(NAMES) else "the last case"
        pytest.fail(f"exit code {done.returncode} at {after}: {done.stderr[-2000:]}")
    return outcomes, before, contents(folder)


@pytest.mark.parametrize(("category", "name"), NAMES, ids=[f"{c}-{n}" for c, n in NAMES])
def test_it_ends_in_its_status(
    attacked: tuple[Outcomes, dict[str, str], dict[str, str]], category: str, name: str
) -> None:
    outcome = attacked[0][category, name]
    status = Status(outcome["status"])
    assert status in CATEGORIES[category][name][1], outcome


def test_memory_stays_small(attacked: tuple[Outcomes, dict[str, str], dict[str, str]]) -> None:
    worst = max(attacked[0].values(), key=lambda row: row["growth"])
    assert worst["growth"] < GROWTH, worst


def test_no_file_changed_and_none_appeared(
    attacked: tuple[Outcomes, dict[str, str], dict[str, str]],
) -> None:
    assert attacked[1] == attacked[2]


if __name__ == "__main__":
    for outcome in attack(sys.argv[1]):
        print(json.dumps(outcome), flush=True)
