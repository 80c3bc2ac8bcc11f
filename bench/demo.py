"""Times the embedded default as a user runs it: seconds, peak memory, the table, and its sameness.

    python bench/demo.py --repeat 2 --output bench/results/demo.json

Each repeat is a whole run in a new folder. Memory is the sum of the proportional set sizes of the
command and its workers, looked at twice a second. `same` says whether all repeats gave the same
answers to every question.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil
import torch
import transformers

from spftcore.report import result_table, verdict_sentence
from spftcore.store import Store


def _memory(process: psutil.Process) -> int:
    """Bytes of a process and its children, shared pages counted once."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total


def _run(folder: Path, options: list[str]) -> tuple[float, int, dict[str, object]]:
    command = [sys.executable, "-m", "spftcore.train", f"--run.directory={folder}"]
    start = time.monotonic()
    process = psutil.Popen([*command, "--run.name=demo", *options], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, _memory(process))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    if process.wait() != 0:
        raise SystemExit(f"The run failed with exit code {process.returncode}.")
    seconds = time.monotonic() - start
    store = Store(folder / "demo" / "run.sqlite")
    results = result_table(store)
    answers = {r.system: store.answers(f"evaluate_{r.system}", "test") for r in results}
    outcome: dict[str, object] = {
        "table": {
            r.name: {
                "right": r.accuracy.right,
                "total": r.accuracy.total,
                "low": round(r.accuracy.low, 4),
                "high": round(r.accuracy.high, 4),
                "p against SFT": None if r.against_sft is None else r.against_sft.p,
            }
            for r in results
        },
        "sentence": verdict_sentence(results),
        "stage seconds": {name: round(s, 1) for name, s in store.seconds().items()},
        "answers": {s: [(a.pair, a.sql) for a in given.values()] for s, given in answers.items()},
    }
    store.close()
    return seconds, peak, outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments, options = parser.parse_known_args()
    load = os.getloadavg()[0]
    runs = []
    for _ in range(arguments.repeat):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(_run(Path(folder), options))
    answers = [outcome.pop("answers") for _, _, outcome in runs]
    record = {
        "date": date.today().isoformat(),
        "command": "python " + " ".join(sys.argv),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seconds": [round(seconds, 1) for seconds, _, _ in runs],
        "peak memory, bytes": [peak for _, peak, _ in runs],
        "same": all(given == answers[0] for given in answers),
        **runs[0][2],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
