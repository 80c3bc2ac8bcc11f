"""One measurement of `bench/step.py` in a process of its own: prints one line of JSON.

    python bench/step_worker.py '{"kind": "steps", "provider": "ours", "cell": {...}, ...}'

A fresh process makes the peak of memory the provider's own.
"""

from __future__ import annotations

import gc
import importlib.metadata
import itertools
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step_cases import Cell
from step_problem import Run, Unavailable, make_model, operations
from step_rivals import RIVALS

PREFIX = "RESULT "  # before the line of JSON, among what libraries print
RATE_SIDE = {
    "cpu": 2048,
    "cuda": 8192,
}  # of the square matrices whose product gives the rate


def resident(field: str) -> int:
    """Bytes of VmRSS or VmHWM; the peak comes from getrusage where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = (line.split() for line in status.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == field + ":")


def provider_of(name: str) -> Callable[[Run], None]:
    if name in RIVALS:
        return RIVALS[name]
    from step_ours import ours  # spftcore, which a peer's interpreter does not have

    return ours(name)


def take_steps(job: dict[str, Any]) -> dict[str, Any]:
    cell = Cell(**job["cell"])
    model = make_model(cell)
    gc.collect()
    baseline = resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError:
        print("The peak includes the start of the process: /proc cannot reset it.")
    if cell.device == "cuda":
        torch.cuda.synchronize()
        baseline = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    stamps: list[float] = []
    known: list[dict[str, float]] = []

    def stamp(facts: dict[str, float]) -> None:
        if cell.device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        known.append(facts)

    begun = time.perf_counter()
    provider_of(job["provider"])(Run(cell, model, job["warmup"] + job["steps"], stamp))
    times = [after - before for before, after in itertools.pairwise(stamps)]
    peak = torch.cuda.max_memory_allocated() if cell.device == "cuda" else resident("VmHWM")
    return {
        "step_s": times[job["warmup"] - 1 :],
        "until_first_step_s": stamps[0] - begun,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "first_step": known[0],
        "versions": versions(),
    }


def matrix_rate(job: dict[str, Any]) -> dict[str, Any]:
    """Operations per second of a large square product in the cell's dtype."""
    cell = Cell(**job["cell"])
    side = RATE_SIDE[cell.device]
    a, b = (
        torch.randn(side, side, dtype=getattr(torch, cell.dtype), device=cell.device) for _ in "ab"
    )
    out = a @ b
    times = []
    while len(times) < 7 or sum(times) < 1.0:
        begun = time.perf_counter()
        torch.mm(a, b, out=out)
        if cell.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return {"operations_per_s": 2.0 * side**3 / statistics.median(times), "side": side}


def check(job: dict[str, Any]) -> dict[str, Any]:
    cell = Cell(**job["cell"])
    model = make_model(cell)
    counted = operations(cell, model)
    parameters = sum(p.numel() for p in model.parameters())
    found = {}
    if job["compare"]:
        from step_ours import first_steps

        found = first_steps(cell, model, job["compare"])
    return {"operations": counted, "parameters": parameters, "first_steps": found}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in (
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "trl",
        "liger-kernel",
    ):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def gpu(job: dict[str, Any]) -> dict[str, Any]:
    return {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    if job["memory_bytes"] is not None:
        # An allocation beyond it fails here, before the machine's other work is pushed out.
        resource.setrlimit(resource.RLIMIT_DATA, (job["memory_bytes"], job["memory_bytes"]))
    kinds = {"steps": take_steps, "rate": matrix_rate, "check": check, "gpu": gpu}
    try:
        result = kinds[job["kind"]](job)
    except Unavailable as reason:
        result = {"unavailable": str(reason)}
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "memory" in text.lower():
            result = {"unavailable": f"did not fit in memory: {text.splitlines()[0][:200]}"}
        else:
            raise
    print(PREFIX + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
