"""Clocks for bench/loss.py: calls in turns, the peak of memory, medians and quantiles."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]
MOST_TURNS = 100


def timed(call: Call, device: str) -> float:
    """Seconds of one call; on a GPU, of its work there."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
    begin_s = time.perf_counter()
    call()
    return time.perf_counter() - begin_s


def take_turns(calls: dict[str, Call], device: str, seconds: float) -> dict[str, list[float]]:
    """Times of each call, one each in turn, for about `seconds` (at least three turns)."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for turn in range(MOST_TURNS):
        if turn >= 3 and time.perf_counter() - started > seconds:
            break
        for name, call in calls.items():
            times[name].append(timed(call, device))
    return times


def peak_bytes(call: Call, device: str) -> int | None:
    """Peak memory above what was held before the call, in bytes; None where it is not known."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        # Freed memory that the allocator keeps would hide the call's own.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _resident("VmRSS")
        call()
        return _resident("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def summary(times: list[float]) -> dict[str, float]:
    """Median, 20 % and 80 % quantiles and least time in milliseconds, and the number of calls."""
    cuts = statistics.quantiles(times, n=5, method="inclusive")
    return {
        "median_ms": round(statistics.median(times) * 1e3, 4),
        "q20_ms": round(cuts[0] * 1e3, 4),
        "q80_ms": round(cuts[3] * 1e3, 4),
        "least_ms": round(min(times) * 1e3, 4),
        "calls": len(times),
    }
