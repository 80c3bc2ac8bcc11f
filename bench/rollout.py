"""Times generation: tokens and samples a second, and the time to the first verified answer.

    python bench/rollout.py --case cpu-1m [--engines hf,generate,…] [--output FILE]
        [--vllm-python ENV/bin/python]

Models are Qwen2 with random weights; prompts are random tokens, and completions are drawn at
temperature 1 and never end by themselves, so that every engine does the same work. In each cell all
engines run in turn, several times over, each time with prompts that no cache has seen; medians are
kept. vLLM runs in a worker process that is open throughout, as in a run. `bare` is the bound: the
forward passes that cannot be done without (every prompt once, then all rows once a token), with
nothing chosen and `transformers`' own cache. Answers are verified by the executor as they come.
"""

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import os
import platform
import random
import shlex
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from spftcore.models import LanguageModel
from spftcore.rollout.hf import HfEngine
from spftcore.rollout.requests import Engine, Sampling
from spftcore.rollout.verifying import judged
from spftcore.rollout.vllm_engine import VllmEngine, VllmOptions
from spftcore.verify import Executor

SEED = 7
PAGE = 64  # tokens

# hidden, layers, heads, key-value heads, intermediate, vocabulary
SIZES = {
    "1m": (128, 4, 4, 2, 512, 1_500),
    "16m": (256, 8, 4, 2, 1_024, 32_000),
    "1.5b": (1_536, 28, 12, 2, 8_960, 151_936),
}


@dataclass(frozen=True)
class Cell:
    """One shape of the problem.

    Attributes:
        size: key of SIZES.
        prompt: tokens of every prompt.
        samples: completions of each.
        rows: completions that are asked for, and decoded together.
        tokens: of every completion.
    """

    size: str
    prompt: int
    samples: int
    rows: int = 32
    tokens: int = 45
    device: str = "cpu"
    dtype: str = "float32"


def _grid(size: str, **other: Any) -> list[Cell]:
    return [
        Cell(size, prompt, samples, **other)
        for prompt, samples in itertools.product((100, 600), (1, 4, 8))
    ]


CASES = {
    "cpu-1m": _grid("1m"),
    "cpu-16m": _grid("16m", rows=8, tokens=24),
    "gpu-1.5b": _grid("1.5b", rows=128, device="cuda", dtype="bfloat16"),
}

Prompts = Sequence[tuple[int, ...]]
# Gives the number of tokens of each completion as it is finished.
Provider = Callable[[LanguageModel, Prompts, Cell], Iterator[int]]


class _Words:
    """A tokenizer without an end: what is measured is the engine, not the decoding of text."""

    eos_token_id = -1
    pad_token_id = 0

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return ""


def make_model(cell: Cell) -> LanguageModel:
    hidden, layers, heads, key_heads, inner, vocabulary = SIZES[cell.size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=inner,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    with torch.device(cell.device):
        model = Qwen2ForCausalLM(config)
    return LanguageModel(model.to(getattr(torch, cell.dtype)).eval(), _Words())


def make_prompts(cell: Cell, turn: int) -> Prompts:
    """Other prompts in each turn: vLLM remembers those it has read."""
    chance = random.Random(f"{SEED} {cell.prompt} {cell.samples} {turn}")
    vocabulary = SIZES[cell.size][-1]
    return [
        tuple(chance.randrange(2, vocabulary) for _ in range(cell.prompt))
        for _ in range(cell.rows // cell.samples)
    ]


# -- what is compared ------------------------------------------------------------------------------


@torch.inference_mode()
def bare(model: LanguageModel, prompts: Prompts, cell: Cell) -> Iterator[int]:
    cache = DynamicCache(config=model.model.config)
    ids = torch.tensor(prompts, device=model.device)
    forward = model.model
    forward(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    of_row = torch.arange(len(prompts), device=model.device).repeat_interleave(cell.samples)
    cache.reorder_cache(of_row)  # type: ignore[arg-type]
    token = torch.full((cell.rows, 1), 5, device=model.device)
    for _ in range(cell.tokens - 1):
        forward(input_ids=token, past_key_values=cache, use_cache=True)
    if cell.device == "cuda":
        torch.cuda.synchronize()
    return iter([cell.tokens] * cell.rows)


def _ask(engine: Engine, _: LanguageModel, prompts: Prompts, cell: Cell) -> Iterator[int]:
    how = Sampling(samples=cell.samples, temperature=1.0, max_new_tokens=cell.tokens, seed=SEED)
    for completion in engine.generate(prompts, how):
        yield len(completion.ids)


def hf(model: LanguageModel, prompts: Prompts, cell: Cell) -> Iterator[int]:
    """Our engine."""
    return _ask(HfEngine(model, batch_size=cell.rows), model, prompts, cell)


def open_vllm(model: LanguageModel, cell: Cell, python: Path | None, folder: Path) -> VllmEngine:
    """vLLM with the same weights, and a tokenizer without an end."""
    model.model.save_pretrained(folder)
    words = {f"w{token}": token for token in range(SIZES[cell.size][-1])}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0"))
    ).save_pretrained(folder)
    # Room for the longest cell; on a GPU the other engines' model is there as well.
    options = VllmOptions(dtype=cell.dtype, context=1024, gpu_memory=0.4)
    return VllmEngine(folder, python=python, options=options, log=folder / "vllm.log")


def _generate(model: LanguageModel, prompts: Prompts, cell: Cell, **cache: Any) -> Iterator[int]:
    ids = torch.tensor(prompts, device=model.device)
    torch.manual_seed(SEED)
    with torch.inference_mode():
        output = model.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=cell.tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            num_return_sequences=cell.samples,
            pad_token_id=0,
            **cache,
        )
    for row in output[:, cell.prompt :].tolist():
        yield len(row)


def generate(model: LanguageModel, prompts: Prompts, cell: Cell) -> Iterator[int]:
    """`transformers.generate` with its dynamic cache."""
    return _generate(model, prompts, cell)


def generate_static(model: LanguageModel, prompts: Prompts, cell: Cell) -> Iterator[int]:
    """`transformers.generate` with its static cache (compiled on a GPU only)."""
    options = {"cache_implementation": "static", "disable_compile": cell.device == "cpu"}
    return _generate(model, prompts, cell, **options)


def continuous(model: LanguageModel, prompts: Prompts, cell: Cell) -> Iterator[int]:
    """`transformers`' continuous batching over a paged cache."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    wanted = [list(prompt) for prompt in prompts for _ in range(cell.samples)]
    how = GenerationConfig(
        max_new_tokens=cell.tokens, do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1
    )
    # Left alone, it would take the whole memory of a CPU's machine.
    pages = cell.rows * -(-(cell.prompt + cell.tokens) // PAGE) + 1
    room = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=pages, max_batch_tokens=cell.rows * cell.prompt
    )
    implementation = model.model.config._attn_implementation
    try:
        found = model.model.generate_batch(
            inputs=wanted, generation_config=how, continuous_batching_config=room
        )
    finally:
        model.model.set_attn_implementation(implementation)
    for one in found.values():
        yield len(one.generated_tokens)


ENGINES: dict[str, Provider] = {
    "bare": bare,
    "hf": hf,
    "generate": generate,
    "generate_static": generate_static,
    "continuous": continuous,
}
OURS = ("hf", "vllm")  # engines of runs: their answers are verified as they come


# -- measuring -------------------------------------------------------------------------------------


def make_database(folder: Path) -> Path:
    """A table of 1,000 rows, for what is verified."""
    path = folder / "visits.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("create table visit (id integer primary key, guests integer)")
    rows = ((i, i % 97) for i in range(1000))
    connection.executemany("insert into visit values (?, ?)", rows)
    connection.commit()
    connection.close()
    return path


def first_verified(
    provider: Provider,
    model: LanguageModel,
    prompts: Prompts,
    cell: Cell,
    executor: Executor,
    database: Path,
) -> float:
    """Seconds until the first answer is judged; a random model's is replaced by a real query."""
    gold = "select sum(guests) from visit"
    start = time.perf_counter()
    answers = (
        (0, f"{gold} where guests > {i}") for i, _ in enumerate(provider(model, prompts, cell))
    )
    stream = judged(executor, [(database, gold)], answers)
    next(stream)
    seconds = time.perf_counter() - start
    stream.close()
    return seconds


def measure(
    cell: Cell,
    model: LanguageModel,
    providers: Mapping[str, Provider],
    repeats: int,
    executor: Executor,
    database: Path,
) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in providers}
    first: dict[str, list[float]] = {name: [] for name in providers}
    failed: dict[str, str] = {}
    for repeat in range(repeats + 1):  # the first one warms up
        prompts, others = make_prompts(cell, 2 * repeat), make_prompts(cell, 2 * repeat + 1)
        for name, provider in providers.items():
            if name in failed:
                continue
            try:
                start = time.perf_counter()
                lengths = list(provider(model, prompts, cell))
                seconds = time.perf_counter() - start
                assert lengths == [cell.tokens] * cell.rows, f"other work: {sorted(set(lengths))}"
                if repeat:
                    times[name].append(seconds)
                    if name in OURS:
                        first[name].append(
                            first_verified(provider, model, others, cell, executor, database)
                        )
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    bound = statistics.median(times["bare"]) if times.get("bare") else None
    rows = {}
    for name in providers:
        if name in failed:
            rows[name] = {"failed": failed[name]}
            continue
        seconds = statistics.median(times[name])
        rows[name] = {
            "seconds": round(seconds, 4),
            "spread": [round(min(times[name]), 4), round(max(times[name]), 4)],
            "tokens per second": round(cell.rows * cell.tokens / seconds, 1),
            "samples per second": round(cell.rows / seconds, 2),
            "times bare": None if bound is None else round(seconds / bound, 2),
        }
        if first[name]:
            rows[name]["seconds to first verified"] = round(statistics.median(first[name]), 4)
    return {"cell": asdict(cell), "engines": rows}


def machine() -> dict[str, Any]:
    name = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--case", choices=sorted(CASES), required=True)
    parser.add_argument(
        "--engines", default=",".join(ENGINES), help="which, in which order (also: vllm)"
    )
    parser.add_argument("--vllm-python", type=Path, help="interpreter that has vLLM")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of vLLM's process
    transformers.logging.set_verbosity_error()
    cells, versions = [], {}
    with (
        Executor(threads=1) as executor,
        tempfile.TemporaryDirectory() as scratch,
        contextlib.ExitStack() as opened,
    ):
        folder = Path(scratch)
        database = make_database(folder)
        model = make_model(CASES[given.case][0])  # all cells of a case have the same
        providers: dict[str, Provider] = {}
        for name in given.engines.split(","):
            if name == "vllm":
                start = time.perf_counter()
                vllm = opened.enter_context(
                    open_vllm(model, CASES[given.case][0], given.vllm_python, folder / "model")
                )
                versions = {
                    "vllm": vllm.version,
                    "vllm seconds to open": round(time.perf_counter() - start, 1),
                }
                providers[name] = functools.partial(_ask, vllm)
            else:
                providers[name] = ENGINES[name]
        for cell in CASES[given.case]:
            cells.append(measure(cell, model, providers, given.repeats, executor, database))
            print(json.dumps(cells[-1]), flush=True)
    result = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]).replace(
            str(given.vllm_python), "ENV/bin/python"
        ),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **versions,
        },
        "cells": cells,
    }
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
