"""Times the loss from hidden states against plain PyTorch, Liger, CCE and TRL, and its own limit.

    python bench/loss.py --cases small                              # seconds: proves that it works
    python bench/loss.py --cases cpu --output bench/results/loss-cpu.json
    python bench/loss.py --cases gpu --output bench/results/loss-gpu.json

Every provider (loss_peers.py) is first held against fp64 on a few sequences of the very problem;
ours must be no further from it than plain PyTorch in the same dtype, or nothing is timed; a peer's
error is recorded. Then the providers take turns, call by call, so that a busy machine disturbs all
of them. Reported: median and the 20 % and 80 % quantiles, the ratio to the bare matrix products of
the same turn (one for scoring, two for a frozen head, three for a trained one), and the peak of
memory above what was held before the call. On a GPU the kernels by themselves follow, as shares of
the copy bandwidth and of the matrix rate (loss_kernels.py). The file is written after every shape.
"""

import argparse
import datetime
import json
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from loss_kernels import kernel_rows, pair_rows
from loss_peers import BETA, Provider, providers, versions
from loss_timing import Call, peak_bytes, summary, take_turns
from torch import Tensor

Shape = tuple[int, int, int]  # tokens N, width H, vocabulary V

# Vocabularies of Mistral, Llama 3, Qwen2.5, and of TRL's issue 6858; widths of Qwen2.5 0.5B, of
# that issue, and of Qwen2.5 7B. Most telling first, should the time run out.
HEADLINES = [(16_384, 2048, 248_320), (16_384, 3584, 152_064)]
GRID: list[Shape] = sorted(
    (
        (tokens, width, vocabulary)
        for vocabulary in (32_768, 128_256, 152_064, 248_320)
        for tokens in (1024, 4096, 16_384)
        for width in (896, 2048, 3584)
    ),
    key=lambda shape: (
        shape != (16_384, 2048, 248_320),
        shape != (16_384, 3584, 152_064),
        -shape[0],
    ),
)
CASES: dict[str, list[Shape]] = {
    "small": [(128, 47, 123), (256, 128, 1500)],
    # The demo's step, then the grid's widths and vocabularies at token counts that a core can do.
    "cpu": [
        (384, 128, 1500),
        (1024, 896, 32_768),
        (256, 896, 151_936),
        (128, 2048, 32_768),
        (128, 2048, 151_936),
        (64, 3584, 152_064),
        (64, 2048, 248_320),
    ],
    "gpu": GRID,
}
SEQUENCE = 64  # tokens of one completion
CHECKED = (4, 16)  # sequences held against fp64, and the tokens of each
CHECKED_HEAD_ROWS = 2048  # rows of the head's gradient held against fp64, besides the targets'
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
MODES = {"scoring": 1, "frozen": 2, "trained": 3}  # and the products in each one's limit
BARE_BYTES = {"cpu": 256 * 1024**2, "cuda": 2 * 1024**3}  # logits of one bare product


def make_problem(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden [N, H], head [V, H] with logits of order 1, targets [N]; every fifth confident."""
    tokens, width, vocabulary = shape
    generator = torch.Generator(device=device).manual_seed(0)
    options: dict[str, Any] = {"device": device, "generator": generator}
    head = torch.randn(vocabulary, width, dtype=dtype, **options).mul_(width**-0.5)
    hidden = torch.randn(tokens, width, dtype=dtype, **options)
    targets = torch.randint(vocabulary, (tokens,), **options)
    chosen = head[targets[::5]]
    hidden[::5] += 12 * chosen / chosen.norm(dim=1, keepdim=True)
    return hidden, head, targets


def run_once(
    provider: Provider, problem: tuple[Tensor, Tensor, Tensor], tokens: int, mode: str
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(loss, gradient of hidden, gradient of the head); the gradients None where not asked for."""
    hidden, head, targets = problem
    hidden = hidden.detach().requires_grad_(mode != "scoring")
    head = head.detach().requires_grad_(mode == "trained")
    with torch.set_grad_enabled(mode != "scoring"):
        loss = provider.loss(hidden, head, targets, tokens)
    if mode != "scoring":
        loss.backward()
    return loss.detach(), hidden.grad, head.grad


# ---- against fp64 --------------------------------------------------------------------------------


def truth(
    problem: tuple[Tensor, Tensor, Tensor], tokens: int, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """fp64: loss, its gradient in hidden, and in `rows` of the head; the head in slices."""
    hidden, head, targets = problem
    states = hidden.double()
    slices = [slice(start, start + 8192) for start in range(0, len(head), 8192)]
    logits = torch.cat([states @ head[part].double().t() for part in slices], dim=1)
    logprobs = torch.log_softmax(logits, dim=1)
    chosen, rejected = logprobs.gather(1, targets[:, None]).view(-1, tokens).sum(1).chunk(2)
    margin = BETA * (chosen - rejected)
    loss = torch.nn.functional.softplus(-margin).mean()
    pull = -BETA * torch.sigmoid(-margin) / len(margin)
    coefficient = torch.cat([pull, -pull]).repeat_interleave(tokens)[:, None]
    delta = -coefficient * logprobs.exp()
    delta.scatter_add_(1, targets[:, None], coefficient)
    grad_hidden = torch.zeros_like(states)
    for part in slices:
        grad_hidden += delta[:, part] @ head[part].double()
    return loss, grad_hidden, delta[:, rows].t() @ states


def check(
    available: list[Provider], problem: tuple[Tensor, Tensor, Tensor]
) -> dict[str, dict[str, Any]]:
    """Each provider's errors against fp64, or why it failed; ends the program where ours is off.

    An error is the root mean square of the difference over that of the truth.
    """
    hidden, head, targets = problem
    sequences, tokens = CHECKED
    part = hidden[: sequences * tokens], head, targets[: sequences * tokens]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(head), generator=generator)[:CHECKED_HEAD_ROWS].to(head.device)
    rows = torch.cat([rows, part[2]]).unique()
    true = truth(part, tokens, rows)
    found: dict[str, dict[str, Any]] = {}
    for provider in available:
        try:
            loss, grad_hidden, grad_head = run_once(provider, part, tokens, "trained")
            assert grad_hidden is not None
            assert grad_head is not None
            got = loss, grad_hidden, grad_head[rows]
            found[provider.name] = {
                f"{name}_relative_error": float((mine.double() - one).norm() / one.norm())
                for name, mine, one in zip(("loss", "hidden", "head"), got, true, strict=True)
            }
        except Exception as error:
            found[provider.name] = {"status": failure(error)}
    for name in ("loss_relative_error", "hidden_relative_error", "head_relative_error"):
        mine, plain = found["ours"].get(name), found["plain"].get(name)
        if mine is None or plain is None or not mine <= plain + TOLERANCE[hidden.dtype]:
            sys.exit(f"Refused to time a wrong result: {name} of {list(head.shape)}: {found}")
    return found


def failure(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines()
    return f"failed: {type(error).__name__}: {lines[0][:160] if lines else ''}"


# ---- time and memory -----------------------------------------------------------------------------


def bare_products(problem: tuple[Tensor, Tensor, Tensor], products: int) -> Call:
    """The matrix products alone, in large chunks of rows: logits, back, and the head's sum."""
    hidden, head, _ = problem
    vocabulary = len(head)
    most = max(1, BARE_BYTES[hidden.device.type] // (vocabulary * head.element_size()))
    rows = -(-len(hidden) // -(-len(hidden) // most))  # even chunks
    logits = hidden.new_empty(rows, vocabulary)
    back = torch.empty_like(hidden) if products > 1 else None
    total = torch.empty_like(head) if products > 2 else None

    def call() -> None:
        for start in range(0, len(hidden), rows):
            part = hidden[start : start + rows]
            chunk = logits[: len(part)]
            torch.mm(part, head.t(), out=chunk)
            if back is not None:
                torch.mm(chunk, head, out=back[start : start + rows])
            if total is not None:
                torch.addmm(total, chunk.t(), part, beta=float(start > 0), out=total)

    return call


def mode_rows(
    available: list[Provider],
    checked: dict[str, dict[str, Any]],
    problem: tuple[Tensor, Tensor, Tensor],
    mode: str,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row per provider of one mode of one shape."""
    hidden, head, _ = problem
    device, tokens = hidden.device.type, min(SEQUENCE, len(hidden) // 2)
    calls: dict[str, Call] = {"products": bare_products(problem, MODES[mode])}
    peaks: dict[str, int | None] = {}
    rows: list[dict[str, Any]] = []
    for provider in available:
        call = _call(provider, problem, tokens, mode)
        status = checked[provider.name].get("status")
        try:
            if status is None:
                call()  # compiles, tunes
                peaks[provider.name] = peak_bytes(call, device)
                calls[provider.name] = call
        except Exception as error:
            status = failure(error)
        if status is not None:
            rows.append({"provider": provider.name, "status": status})
    calls["products"]()
    times = take_turns(calls, device, seconds)
    operations = 2.0 * MODES[mode] * hidden.numel() * len(head)
    for name in calls:
        ratios = [mine / bare for mine, bare in zip(times[name], times["products"], strict=True)]
        row = {"provider": name, "status": "ok", **summary(times[name])}
        row["ratio_to_products"] = round(statistics.median(ratios), 3)
        row["limit_tflops"] = round(operations / statistics.median(times[name]) / 1e12, 4)
        row["peak_extra_bytes"] = peaks.get(name)
        rows.append(row | checked.get(name, {}))
    return rows


def _call(
    provider: Provider, problem: tuple[Tensor, Tensor, Tensor], tokens: int, mode: str
) -> Call:
    def call() -> None:
        run_once(provider, problem, tokens, mode)

    return call


# ---- the run -------------------------------------------------------------------------------------


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
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = properties.name
        facts["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["multiprocessors"] = properties.multi_processor_count
    return facts


def _load() -> float:
    """Processes that wanted a core over the last minute: above 0 for an idle machine's cores."""
    try:
        return float(Path("/proc/loadavg").read_text().split()[0])
    except OSError:
        return float("nan")


def show(row: dict[str, Any]) -> None:
    name = f"  {row.get('mode', ''):8} {row['provider']:20}"
    if row["status"] != "ok":
        print(f"{name} {row['status']}", flush=True)
        return
    peak = row.get("peak_extra_bytes")
    memory = "" if peak is None else f"{peak / 2**20:10.1f} MiB"
    times = f"{row['median_ms']:10.3f} ms [{row['q20_ms']:.3f}, {row['q80_ms']:.3f}]"
    extra = "  ".join(f"{key} {row[key]}" for key in ("copy_share", "matrix_share") if key in row)
    ratio = f"{row['ratio_to_products']:7.2f} x products" if "ratio_to_products" in row else extra
    print(f"{name} {times} {ratio} {memory}", flush=True)


def run(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Fills result['rows'], printing and writing each shape as it comes."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    started = time.monotonic()
    rows = result["rows"]
    for shape in arguments.shapes or CASES[arguments.cases]:
        if time.monotonic() - started > arguments.deadline:
            rows.append({"shape": shape, "provider": "all", "status": "not reached"})
            continue
        everyone = [
            provider
            for provider in providers(device)
            if not arguments.only or provider.name in ("ours", "plain", *arguments.only)
        ]
        available = [provider for provider in everyone if not provider.missing()]
        if device == "cuda":
            torch.cuda.empty_cache()
        torch._dynamo.reset()  # or the peers' compiled functions outlive their limit of shapes
        problem = make_problem(shape, dtype, device)
        checked = check(available, problem)
        print("\n{} tokens x {} x {}".format(*shape), arguments.dtype, device, flush=True)
        for mode in arguments.modes:
            new = mode_rows(available, checked, problem, mode, arguments.seconds)
            absent = [provider for provider in everyone if provider.missing()]
            new += [{"provider": p.name, "status": "not installed"} for p in absent]
            for row in new:
                row |= {"mode": mode, "shape": shape, "dtype": arguments.dtype}
                show(row)
            rows += new
        del problem
        write(result, arguments.output)
    print()
    more = pair_rows(arguments.pairs, device, min(arguments.seconds, 1.0))
    if device == "cuda":
        more += kernel_rows(dtype, min(arguments.seconds, 1.0))
    for row in more:
        show(row)
    rows += more
    write(result, arguments.output)


def write(result: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")


def shape_of(text: str) -> Shape:
    tokens, width, vocabulary = (int(part) for part in text.split("x"))
    if tokens % (2 * min(SEQUENCE, tokens // 2)):
        raise argparse.ArgumentTypeError(f"{tokens} tokens are no pairs of {SEQUENCE}")
    return tokens, width, vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", choices=CASES, default="small")
    parser.add_argument("--shapes", nargs="+", type=shape_of, metavar="NxHxV", help="instead")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda for --cases gpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--only", nargs="+", default=[], help="these providers, ours and plain")
    parser.add_argument("--pairs", nargs="+", type=int, default=[16, 4096])
    parser.add_argument("--seconds", type=float, default=1.0, help="per shape and mode")
    parser.add_argument("--deadline", type=float, default=1e9, help="seconds; no new shape after")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.device is None:
        arguments.device = "cuda" if arguments.cases == "gpu" else "cpu"
    if arguments.dtype is None:
        arguments.dtype = "bfloat16" if arguments.device == "cuda" else "float32"
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "machine": machine(arguments.device),
        "versions": {"python": platform.python_version(), **versions()},
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": "python " + shlex.join(sys.argv),
        "rows": [],
    }
    run(arguments, result)


if __name__ == "__main__":
    main()
