"""Times `linear_logprobs` and `pair_loss` against plain PyTorch and against their bare products.

    python bench/loss.py                                   # three shapes, one CPU thread
    python bench/loss.py --device cuda --dtype bfloat16    # six shapes of published models
    python bench/loss.py --shapes 4096x896x151936 --output results.json

Every shape is first checked: |ours - fp64| <= |plain PyTorch - fp64| + tolerance, on its first
rows; a failure ends the run before anything is timed. Providers take turns, call by call, so that a
busy machine disturbs all of them. Reported: median and the 20 % and 80 % quantiles of the time, the
ratio to the bare matrix products of the same chunks (two for a frozen head, three for a trained
one), and the peak of memory above what was held before the call.
"""

import argparse
import ctypes
import datetime
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spftcore.kernels import linear_logprobs, linear_logprobs_reference, pair_loss
from spftcore.kernels.head import CPU_CHUNK_BYTES, GPU_CHUNK_BYTES

# Tokens x width x vocabulary: the demo's step; a 0.5B model's width with 32 k and 152 k tokens.
CPU_SHAPES = ["300x128x1500", "256x896x32000", "96x896x151936"]
# Qwen2.5 0.5B and 7B, and the 248 k vocabulary of TRL issue 6858.
GPU_SHAPES = [
    "4096x896x151936",
    "4096x3584x152064",
    "16384x3584x152064",
    "4096x2048x248320",
    "16384x2048x248320",
    "16384x2048x32768",
]
CHECKED_ROWS = 32
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}

Call = Callable[[], Any]


def make_problem(
    tokens: int, width: int, vocabulary: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden [N, H], weight [V, H] with logits of order 1, targets [N]; every fifth confident."""
    generator = torch.Generator(device=device).manual_seed(0)
    options: dict[str, Any] = {"device": device, "generator": generator}
    weight = torch.randn(vocabulary, width, dtype=dtype, **options).mul_(width**-0.5)
    hidden = torch.randn(tokens, width, dtype=dtype, **options)
    targets = torch.randint(vocabulary, (tokens,), **options)
    chosen = weight[targets[::5]]
    hidden[::5] += 12 * chosen / chosen.norm(dim=1, keepdim=True)
    return hidden, weight, targets


def check_against_fp64(hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, float]:
    """Largest errors of ours and of plain PyTorch; ends the program where ours is further off."""
    rows = slice(0, CHECKED_ROWS)
    results = []
    for function, convert in (
        (linear_logprobs_reference, Tensor.double),
        (linear_logprobs_reference, Tensor.clone),
        (linear_logprobs, Tensor.clone),
    ):
        leaf = convert(hidden[rows]).requires_grad_()
        logprobs = function(leaf, convert(weight), targets[rows])
        logprobs.sum().backward()
        assert leaf.grad is not None
        results.append((logprobs.detach().double(), leaf.grad.double()))
    truth, plain, ours = results
    errors = {}
    for index, name in enumerate(("logprobs", "gradient")):
        for provider, got in (("plain", plain), ("ours", ours)):
            difference = got[index] - truth[index]
            errors[f"{name}_rms_error_{provider}"] = float(difference.square().mean().sqrt())
        allowed = errors[f"{name}_rms_error_plain"] + TOLERANCE[hidden.dtype]
        if not errors[f"{name}_rms_error_ours"] <= allowed:
            sys.exit(f"Refused to time a wrong result: {name} of {list(weight.shape)}: {errors}")
    return errors


def bare_products(hidden: Tensor, weight: Tensor, products: int) -> Call:
    """The matrix products alone, over the chunks ours uses: logits, back, and the head's sum."""
    budget = GPU_CHUNK_BYTES if hidden.is_cuda else CPU_CHUNK_BYTES
    vocabulary = weight.shape[0]
    most = max(1, budget // (vocabulary * weight.element_size()))
    rows = -(-len(hidden) // -(-len(hidden) // most))  # even chunks, as ours

    def call() -> None:
        logits = hidden.new_empty(rows, vocabulary)
        back = torch.empty_like(hidden) if products > 1 else None
        head = torch.empty_like(weight) if products > 2 else None
        for start in range(0, len(hidden), rows):
            part = hidden[start : start + rows]
            chunk = logits[: len(part)]
            torch.mm(part, weight.t(), out=chunk)
            if back is not None:
                torch.mm(chunk, weight, out=back[start : start + rows])
            if head is not None:
                torch.addmm(head, chunk.t(), part, beta=float(start > 0), out=head)

    return call


def head_calls(
    hidden: Tensor, weight: Tensor, targets: Tensor, mode: str
) -> tuple[dict[str, Call], int]:
    """Providers of one mode (forward, frozen, trained) and the products in its bare limit."""
    products = {"forward": 1, "frozen": 2, "trained": 3}[mode]
    leaf = hidden.clone().requires_grad_(mode != "forward")
    head = weight.detach().requires_grad_(mode == "trained")

    def provider(function: Callable[..., Tensor]) -> Call:
        def call() -> None:
            leaf.grad = head.grad = None
            logprobs = function(leaf, head, targets)
            if mode != "forward":
                logprobs.sum().backward()
            leaf.grad = head.grad = None

        return call

    calls = {
        "products": bare_products(hidden, weight, products),
        "ours": provider(linear_logprobs),
        "plain": provider(linear_logprobs_reference),
    }
    return calls, products


def pair_calls(pairs: int, device: str) -> dict[str, Call]:
    """`pair_loss` of `pairs` pairs of 2 x 60 tokens, forward and forward with backward."""
    tokens = 60
    logprobs = -torch.rand(2 * pairs * tokens, device=device)
    reference = logprobs - 0.1
    borders = torch.arange(0, len(logprobs) + 1, tokens, device=device)
    chosen = torch.arange(0, 2 * pairs, 2, device=device)
    reward = torch.ones(pairs, device=device)
    leaf = logprobs.clone().requires_grad_()

    def forward() -> None:
        pair_loss(logprobs, reference, borders, chosen, chosen + 1, reward, None, 0.5)

    def backward() -> None:
        leaf.grad = None
        loss, _ = pair_loss(leaf, reference, borders, chosen, chosen + 1, reward, None, 0.5)
        loss.sum().backward()

    calls = {"pair_loss forward": forward, "pair_loss forward+backward": backward}
    if device == "cuda":
        forward()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
        calls["pair_loss forward, CUDA graph"] = graph.replay
    return calls


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
    """Times of each provider, one call each in turn, for about `seconds` (at least three turns)."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times["ours"]) < 3:
        for name, call in calls.items():
            times[name].append(timed(call, device))
        if len(times["ours"]) >= 200:
            break
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


def ratio(times: list[float], limit: list[float]) -> float:
    """Median over the turns of time / limit: both were measured within one turn, under one load."""
    return statistics.median(mine / bare for mine, bare in zip(times, limit, strict=True))


def machine(device: str) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    facts = {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "load_at_start": round(_load(), 2),
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _load() -> float:
    """Processes that wanted a core over the last minute: above 0 for an idle machine's cores."""
    try:
        return float(Path("/proc/loadavg").read_text().split()[0])
    except OSError:
        return float("nan")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = "missing"
    return found


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of the result; prints each as it comes."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    rows: list[dict[str, Any]] = []
    for shape in arguments.shapes or (GPU_SHAPES if device == "cuda" else CPU_SHAPES):
        tokens, width, vocabulary = (int(part) for part in shape.split("x"))
        problem = make_problem(tokens, width, vocabulary, dtype, device)
        errors = check_against_fp64(*problem)
        print(f"\n{shape} {arguments.dtype} {device}: agrees with fp64 ({errors})")
        for mode in ("forward", "frozen", "trained"):
            calls, products = head_calls(*problem, mode)
            times = take_turns(calls, device, arguments.seconds)
            operations = 2.0 * products * tokens * width * vocabulary
            for name, call in calls.items():
                row = {
                    "shape": {"tokens": tokens, "width": width, "vocabulary": vocabulary},
                    "dtype": arguments.dtype,
                    "mode": mode,
                    "provider": name,
                    **summary(times[name]),
                    "ratio_to_products": round(ratio(times[name], times["products"]), 3),
                    "tflops": round(operations / statistics.median(times[name]) / 1e12, 4),
                    "peak_extra_bytes": peak_bytes(call, device),
                    **errors,
                }
                rows.append(row)
                peak = row["peak_extra_bytes"]
                memory = "unknown" if peak is None else f"{peak / 2**20:9.1f} MiB"
                print(
                    f"  {mode:8} {name:9} {row['median_ms']:10.2f} ms "
                    f"[{row['q20_ms']:.2f}, {row['q80_ms']:.2f}]  "
                    f"{row['ratio_to_products']:.2f} x products  {memory}"
                )
    print()
    for pairs in arguments.pairs:
        for name, call in pair_calls(pairs, device).items():
            seconds = min(arguments.seconds, 1.0)
            alone = take_turns({"ours": call}, device, seconds)["ours"]
            rows.append({"mode": name, "pairs": pairs, **summary(alone)})
            print(f"  {name}, {pairs} pairs: {rows[-1]['median_ms'] * 1e3:.1f} us")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--shapes", nargs="+", metavar="NxHxV", help="tokens x width x vocabulary")
    parser.add_argument("--pairs", nargs="+", type=int, default=[16, 4096])
    parser.add_argument("--seconds", type=float, default=3.0, help="per shape and mode")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "machine": machine(arguments.device),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": "python " + shlex.join(sys.argv),
        "rows": run(arguments),
    }
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
