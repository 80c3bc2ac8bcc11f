"""Times one optimizer step of preference training: ours, TRL's DPOTrainer, a plain PyTorch loop.

    python bench/step.py --case cpu-16m --peers-python PEERS/bin/python --output results.json
    python bench/step.py --case grid --providers ours trl-no-checkpointing --rounds 1

Before a shape is timed, ours and plain PyTorch (one unpadded sequence at a time) must agree on the
loss and on the gradient's norm of its first step; TRL's first gradient norm is compared as well.
Then each provider runs in a fresh process per round, in turn. Reported per optimizer step: the
median and the 20 % and 80 % quantiles of its time; pairs and tokens per second (a prompt that
several completions share counts once); the peak of memory above what was resident once the model
was built. The arithmetic limit is the operations of the body over the rate of a large matrix
product, which is measured in every round; see `step_problem.operations`.

TRL stays out of the project's environment: --peers-python names an interpreter that has it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from step_cases import CASES, Cell

OURS = [
    "ours",
    "ours-pairs",
    "ours-no-packing",
    "ours-no-sharing",
    "ours-flex",
    "ours-varlen",
]
PEERS = ["trl", "trl-precomputed", "trl-no-checkpointing", "trl-liger"]
PROVIDERS = [*OURS, "plain", *PEERS]
ON_GPU_ONLY = {"ours-flex", "ours-varlen"}
# Cases that ask about something else than who is faster: groups, and our data set.
ONLY = {
    "rejected": ["ours", "ours-pairs", "plain", "trl-no-checkpointing"],
    "flat": ["ours"],
}
AGREEMENT = {"float32": 1e-4, "bfloat16": 3e-2}  # relative, of loss and gradient norm
PREFIX = "RESULT "  # step_worker's

Result = dict[str, Any]


class Bench:
    """Starts the measurements, each in a process of its own, and keeps their limits."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.memory_bytes = int(arguments.memory_gib * 2**30)
        self.versions: Result = {}

    def job(self, kind: str, cell: Cell | None, **more: Any) -> Result:
        """What step_worker found, or {"unavailable": why}."""
        python = sys.executable
        if more.get("provider") in PEERS:
            python = str(self.arguments.peers_python)
        job = {
            "kind": kind,
            "cell": None if cell is None else dataclasses.asdict(cell),
            "threads": self.arguments.threads,
            # CUDA reserves far more address space than it uses.
            "memory_bytes": self.memory_bytes if cell and cell.device == "cpu" else None,
            **more,
        }
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.arguments.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        worker = Path(__file__).with_name("step_worker.py")
        try:
            done = subprocess.run(
                [python, str(worker), json.dumps(job)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=self.arguments.limit_s,
            )
        except subprocess.TimeoutExpired:
            return {"unavailable": f"no result within {self.arguments.limit_s} s"}
        except FileNotFoundError:
            return {"unavailable": f"not installed (there is no {python})"}
        for line in done.stdout.splitlines():
            if line.startswith(PREFIX):
                result: Result = json.loads(line.removeprefix(PREFIX))
                return result
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"unavailable": f"failed: {last[:300]}"}

    def measure(self, cell: Cell, providers: list[str]) -> list[Result]:
        """The rows of one cell, printed as they come to be."""
        checked = self.checked(cell, [name for name in providers if name in OURS])
        rounds: dict[str, list[Result]] = {name: [] for name in providers}
        rates: list[float] = []
        reasons: dict[str, str] = {}
        for _ in range(self.arguments.rounds):
            rates.append(self.job("rate", cell).get("operations_per_s", float("nan")))
            for name in providers:
                if name in reasons:
                    continue
                found = self.job(
                    "steps",
                    cell,
                    provider=name,
                    warmup=self.arguments.warmup,
                    steps=self.arguments.steps,
                )
                if "unavailable" in found:
                    reasons[name] = found["unavailable"]
                    continue
                for package, version in found.pop("versions").items():
                    if self.versions.get(package, "not installed") == "not installed":
                        self.versions[package] = version
                same_first_step(cell, name, checked, found["first_step"])
                seconds = statistics.median(found["step_s"])
                print(f"  round {len(rates)}: {name} {seconds:.3f} s a step", flush=True)
                rounds[name].append(found)
        rows = []
        for name in providers:
            row: Result = {
                "cell": cell.name,
                "shape": dataclasses.asdict(cell),
                "provider": name,
            }
            if name in reasons:
                row["unavailable"] = reasons[name]
            else:
                row.update(summary(cell, checked["operations"], rounds[name], rates))
                if name != "ours" and rounds.get("ours"):
                    row["times_ours"] = ratio(rounds[name], rounds["ours"])
            rows.append(row)
            print(as_text(row), flush=True)
        return rows

    def checked(self, cell: Cell, ours: list[str]) -> Result:
        """Operations of the cell and its agreed first steps; ends the program where they differ."""
        compare = ours if cell.pairs_held is None else []
        found = self.job("check", cell, compare=compare)
        if "unavailable" in found:
            sys.exit(f"{cell.name}: the check before the timing did not run: {found}")
        counted = found["operations"]
        print(
            f"\n{cell.name}: {found['parameters'] / 1e6:.1f} M parameters, {cell.pairs} pairs, "
            f"{counted['tokens']} tokens ({counted['scored_tokens']} scored)"
        )
        steps = found["first_steps"]
        for name in compare:
            if name not in steps:
                continue
            differences = {
                key: abs(steps[name][key] - steps["plain"][key]) / abs(steps["plain"][key])
                for key in ("loss", "grad_norm")
            }
            if not max(differences.values()) <= AGREEMENT[cell.dtype]:
                sys.exit(f"{cell.name}: {name} and plain differ (relative): {differences}; {steps}")
            print(f"  {name} agrees with plain (relative difference): {differences}")
        return found


def same_first_step(cell: Cell, name: str, checked: Result, got: Result) -> None:
    """Ends the program if a provider's first step has another gradient norm than plain's."""
    expected = checked["first_steps"].get("plain, first step")
    if expected is None or "grad_norm" not in got:
        return
    difference = abs(got["grad_norm"] - expected["grad_norm"]) / expected["grad_norm"]
    if not difference <= 10 * AGREEMENT[cell.dtype]:
        sys.exit(f"{cell.name}: {name} does other work: {got} where plain has {expected}")


def summary(cell: Cell, counted: Result, rounds: list[Result], rates: list[float]) -> Result:
    """Times over all rounds, speeds, memory, and the share of the arithmetic limit."""
    times = [seconds for found in rounds for seconds in found["step_s"]]
    median = statistics.median(times)
    cuts = statistics.quantiles(times, n=5, method="inclusive") if len(times) > 1 else [median] * 4
    whole = counted["body"] + counted["head"]

    def share(operations: float) -> float:
        # Within a round both were measured under one load.
        return statistics.median(
            operations / rate / statistics.median(found["step_s"])
            for rate, found in zip(rates, rounds, strict=True)
        )

    return {
        "median_s": round(median, 5),
        "q20_s": round(cuts[0], 5),
        "q80_s": round(cuts[3], 5),
        "steps": len(times),
        "pairs_per_s": round(cell.pairs / median, 3),
        "tokens_per_s": round(counted["tokens"] / median, 1),
        "peak_extra_bytes": max(f["peak_bytes"] - f["baseline_bytes"] for f in rounds),
        "peak_bytes": max(f["peak_bytes"] for f in rounds),
        "until_first_step_s": round(statistics.median(f["until_first_step_s"] for f in rounds), 4),
        "matrix_gflops": round(statistics.median(rates) / 1e9, 2),
        "limit_body_s": round(counted["body"] / statistics.median(rates), 5),
        "limit_body_and_head_s": round(whole / statistics.median(rates), 5),
        "share_of_body_limit": round(share(counted["body"]), 3),
        "share_of_body_and_head_limit": round(share(whole), 3),
    }


def ratio(rounds: list[Result], ours: list[Result]) -> Result:
    """Time (median over rounds of the ratio within one) and peak memory as multiples of ours."""
    peak = max(f["peak_bytes"] - f["baseline_bytes"] for f in rounds)
    ours_peak = max(f["peak_bytes"] - f["baseline_bytes"] for f in ours)
    return {
        "time": round(
            statistics.median(
                statistics.median(a["step_s"]) / statistics.median(b["step_s"])
                for a, b in zip(rounds, ours, strict=True)
            ),
            2,
        ),
        "memory": round(peak / ours_peak, 2),
    }


def beside_first_cell(rows: list[Result]) -> None:
    """Adds and prints each provider's time as a multiple of its time in the case's first cell."""
    first: dict[str, float] = {}
    for row in rows:
        if "median_s" in row:
            start = first.setdefault(row["provider"], row["median_s"])
            row["times_first_cell"] = round(row["median_s"] / start, 3)
            print(f"{row['provider']}, {row['cell']}: {row['times_first_cell']} x the first cell")


def as_text(row: Result) -> str:
    if "unavailable" in row:
        return f"  {row['provider']:22} {row['unavailable']}"
    multiple = row.get("times_ours")
    beside = f"  {multiple['time']} x time, {multiple['memory']} x memory" if multiple else ""
    return (
        f"  {row['provider']:22} {row['median_s'] * 1e3:9.1f} ms "
        f"[{row['q20_s'] * 1e3:.1f}, {row['q80_s'] * 1e3:.1f}]  "
        f"{row['pairs_per_s']:8.2f} pairs/s  {row['peak_extra_bytes'] / 2**20:8.0f} MiB extra "
        f"({row['peak_bytes'] / 2**20:.0f} in all)  "
        f"{row['share_of_body_limit']:.0%} of the body's limit{beside}"
    )


def machine(gpu: str | None, threads: int) -> Result:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    return {
        "processor": processor,
        "threads": threads,
        "gpu": gpu,
        "system": platform.platform(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def available_gib() -> float:
    """Memory that could be used now, in GiB; 16 where the system does not say."""
    if Path("/proc/meminfo").exists():
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    return 16.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=list(CASES), default="cpu-16m")
    parser.add_argument(
        "--providers",
        nargs="+",
        choices=PROVIDERS,
        help="default: all that the case asks for",
    )
    parser.add_argument("--cells", help="only cells whose name contains this text")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes of each provider")
    parser.add_argument("--steps", type=int, default=3, help="timed in each process")
    parser.add_argument("--warmup", type=int, default=1, help="steps before these, at least 1")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument(
        "--memory-gib",
        type=float,
        default=0.8 * available_gib(),
        help="limit of a CPU process",
    )
    parser.add_argument("--limit-s", type=float, default=600, help="time limit of a process")
    parser.add_argument(
        "--peers-python",
        type=Path,
        default=Path(sys.executable),
        help="has trl, liger-kernel",
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.warmup < 1 or arguments.steps < 1 or arguments.rounds < 1:
        parser.error("--warmup, --steps and --rounds must be at least 1")
    bench = Bench(arguments)
    gpu = bench.job("gpu", None).get("gpu")
    started = machine(gpu, arguments.threads)
    usual = [p for p in PROVIDERS if p != "ours-pairs" and (gpu or p not in ON_GPU_ONLY)]
    providers = arguments.providers or ONLY.get(arguments.case, usual)
    rows: list[Result] = []
    for cell in CASES[arguments.case]:
        if arguments.cells is not None and arguments.cells not in cell.name:
            continue
        if cell.device == "cuda" and gpu is None:
            print(f"{cell.name}: skipped, PyTorch sees no GPU here")
            rows.append({"cell": cell.name, "unavailable": "PyTorch sees no GPU here"})
            continue
        rows += bench.measure(cell, providers)
    if arguments.case in ONLY:
        beside_first_cell(rows)
    result = {
        "machine": started,
        "versions": bench.versions,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": "python " + shlex.join(sys.argv),
        "rows": rows,
    }
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
