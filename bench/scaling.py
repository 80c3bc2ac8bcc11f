"""What a run costs on larger machines, and whether the cost model is right about a small one.

    python bench/scaling.py plans [--output FILE]   # the paper's sizes, and a thousand times them
    python bench/scaling.py check [--output FILE]   # forecast, then run, and compare by phase

`plans` multiplies the work of each stage (`spftcore/costs.py`) by rates. Nothing of ours has run on
a GPU, so the rates of GPUs are arithmetic: products at a stated share of the peak, generation at a
stated share of the memory's bandwidth. The rates of SQL are those measured on two cores
(`bench/executor.py`, `bench/synthesis.py`), by core. `check` takes every rate from measurements of
a few seconds on this machine, made before the run that it predicts. Further options go to
`spftcore.train`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from spftcore.config import Config
from spftcore.costs import Sizes, Work, by_phase, replay, work

# -- machines and models ---------------------------------------------------------------------------

TRAINED_SHARE = 0.35  # of the peak, in training with packed rows; assumed
READ_SHARE = 0.5  # of the peak, in forward passes; assumed
BANDWIDTH_SHARE = 0.6  # of the memory's bandwidth, in decoding; assumed
TOGETHER = 128  # completions decoded together on a GPU, where their caches fit beside the weights
USABLE = 0.9  # of a GPU's memory, in weights and caches
VERIFIED_PER_CORE = 9_100.0  # bench/results/executor.json: 18,273 pairs/s on two cores
QUERIES_PER_CORE = 387.0  # bench/results/synthesis.json: 774 kept queries/s on two cores
DISK = 1e9  # bytes a second of reading and writing checkpoints; assumed
CORES_PER_GPU = 12


@dataclass(frozen=True, slots=True)
class Gpu:
    """From the maker's data sheet: dense bf16 operations and bytes of memory read, per second, and
    bytes of memory."""

    name: str
    flops: float
    bandwidth: float
    memory: float


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model: parameters, and bytes of cache that a token takes (keys and values in bf16)."""

    name: str
    parameters: float
    cache: float


A800 = Gpu("A800 80 GB", 312e12, 2.0e12, 80e9)
H100 = Gpu("H100 SXM", 989e12, 3.35e12, 80e9)
# Qwen2.5-Coder: 28 layers of 4 heads of 128 for keys and values; 64 layers of 8.
QWEN_7B = Shape("7B", 7.6e9, 2 * 28 * 4 * 128 * 2)
QWEN_32B = Shape("32B", 32.8e9, 2 * 64 * 8 * 128 * 2)


def rates(gpu: Gpu, shape: Shape, gpus: int, context: float, *, adapters: bool) -> Work:
    """What `gpus` of them do in a second, in a run of one process on each.

    Args:
        context: tokens in the cache of a completion, on average.
        adapters: LoRA: the weights' own gradients are not computed (4 instead of 6 operations per
            parameter and token).
    """
    weights = 2 * shape.parameters
    room = (USABLE * gpu.memory - weights) / (context * shape.cache)
    together = max(1, min(TOGETHER, int(room)))
    # A step of decoding reads the weights once and the cache of every completion.
    step = (weights + together * context * shape.cache) / (gpu.bandwidth * BANDWIDTH_SHARE)
    operations = (4 if adapters else 6) * shape.parameters
    forward = gpu.flops * READ_SHARE / (2 * shape.parameters)
    cores = CORES_PER_GPU * gpus
    return Work(
        trained=gpus * gpu.flops * TRAINED_SHARE / operations,
        scored=gpus * forward,
        read=gpus * forward,
        written=gpus * min(together / step, forward),
        verified=VERIFIED_PER_CORE * cores,
        queries=QUERIES_PER_CORE * CORES_PER_GPU,  # the first process alone fills templates
        moved=DISK,
    )


# -- plans -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """A run on a machine: its seeds, its evaluation, and the tokens of its prompts."""

    name: str
    shape: Shape
    gpu: Gpu
    gpus: int
    seeds: int
    questions: int
    prompt: float
    sql: float
    times: int = 1

    def config(self) -> Config:
        """Five rounds of 3,000 pairs and five iterations, three passes over what is trained on
        (the paper names rounds and pairs; passes, ranking and feedback sets are our choice)."""
        count = 3000 * self.times
        pairs = self.seeds * self.times + count
        values: dict[str, Any] = {
            "model": {"name_or_path": self.shape.name},
            "lora": {"rank": 32},
            "vbi": {"rounds": 5, "count": count, "feedback": count // 10, "ranking": count // 10},
            "self_play": {"iterations": 5, "batch_size": 16, "steps": pairs // 16},
            "baselines": [],
        }
        values["vbi"] |= {"batch_size": 16, "steps": 3 * pairs // 16}
        values["sql_to_text"] = {"batch_size": 16, "steps": pairs // 16}
        return Config.model_validate(values)

    def sizes(self) -> Sizes:
        adapter = 0.01 * self.shape.parameters * 2
        return Sizes(
            seeds=self.seeds * self.times,
            questions=self.questions,
            prompt=self.prompt,
            sql=self.sql,
            question_prompt=self.prompt,
            question=20.0,
            model_bytes=2 * self.shape.parameters,
            saved_bytes=adapter,
        )


PLANS = (
    Plan("Spider, 7B, LoRA", QWEN_7B, A800, 2, 7_000, 1_034 + 2_147, 600, 45),
    Plan("Spider, 7B, LoRA", QWEN_7B, H100, 8, 7_000, 1_034 + 2_147, 600, 45),
    Plan("Spider, 32B, LoRA", QWEN_32B, H100, 8, 7_000, 1_034 + 2_147, 600, 45),
    Plan("BIRD, 7B, LoRA", QWEN_7B, H100, 8, 9_428, 1_534, 1_500, 70),
    Plan("BIRD, 32B, LoRA", QWEN_32B, H100, 8, 9_428, 1_534, 1_500, 70),
    Plan("Spider x 1,000, 7B", QWEN_7B, H100, 64, 7_000, 3_181, 600, 45, times=1_000),
    Plan("Spider x 1,000, 7B", QWEN_7B, H100, 1_024, 7_000, 3_181, 600, 45, times=1_000),
)


def planned(plan: Plan) -> dict[str, Any]:
    """Hours by phase with what takes most of each, and what moves."""
    config, sizes = plan.config(), plan.sizes()
    speed = rates(plan.gpu, plan.shape, plan.gpus, plan.prompt + plan.sql / 2, adapters=True)
    amounts = {stage.name: amount for stage, amount in work(config, sizes)}
    seconds = {name: amount.at(speed) for name, amount in amounts.items()}
    phases = by_phase(seconds)
    total = sum(phases.values(), Work())
    return {
        "plan": plan.name,
        "machine": f"{plan.gpus} x {plan.gpu.name}",
        "hours": round(total.total / 3600, 2),
        "hours by phase": {n: round(p.total / 3600, 3) for n, p in phases.items()},
        "bottleneck by phase": {n: p.bottleneck for n, p in phases.items()},
        "bottleneck": total.bottleneck,
        "share of the bottleneck": round(max(total.amounts()) / total.total, 2),
        "work": {k: float(f"{v:.3g}") for k, v in asdict(sum(amounts.values(), Work())).items()},
        "rates": {k: float(f"{v:.3g}") for k, v in asdict(speed).items()},
    }


# -- the check -------------------------------------------------------------------------------------


def check(options: Sequence[str]) -> dict[str, Any]:
    """Forecasts a run, makes it, and compares them by phase."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--run.directory={folder}", "--run.name=check", *options]
        # In a process of its own, as the run is: what a library has warmed up must not differ.
        predicted = json.loads(_output([sys.executable, __file__, "forecast", *arguments]))
        _output([sys.executable, "-m", "spftcore.train", *arguments])
        from spftcore.store import Store

        store = Store(Path(folder) / "check" / "run.sqlite")
        measured = store.seconds()
        (whole,) = store.query("select max(finished_at) - min(finished_at - seconds) from stages")[
            0
        ]
        store.close()
    phases = by_phase({name: Work(moved=s) for name, s in measured.items()})
    of_phase = {name: round(amount.total, 1) for name, amount in phases.items()}
    return {
        "seconds, predicted": round(predicted["seconds"], 1),
        "seconds, measured": round(whole, 1),
        "error": round(predicted["seconds"] / whole - 1, 3),
        "by phase": {
            name: {"predicted": round(predicted["phases"][name], 1), "measured": seconds}
            for name, seconds in of_phase.items()
        },
        "rates": predicted["rates"],
    }


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def print_forecast(options: Sequence[str]) -> None:
    """The forecast as JSON: seconds of the run and of each phase, and the rates."""
    from spftcore.forecast import forecast
    from spftcore.train import parser, settings

    found = forecast(settings(parser().parse(list(options))))
    phases = by_phase({stage.name: Work(moved=s) for stage, _, s in found.stages})
    record = {
        "seconds": replay([(stage, s) for stage, _, s in found.stages], found.workers),
        "phases": {name: amount.total for name, amount in phases.items()},
        "rates": {k: round(v, 1) for k, v in asdict(found.rates).items()},
    }
    print(json.dumps(record))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("plans", "check", "forecast"))
    parser.add_argument("--output", type=Path)
    arguments, options = parser.parse_known_args()
    if arguments.what == "forecast":
        print_forecast(options)
        return
    record = {
        "command": "python " + " ".join(sys.argv),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }
    if arguments.what == "check":
        record["check"] = check(options)
    else:
        record["plans"] = [planned(plan) for plan in PLANS]
    text = json.dumps(record, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
