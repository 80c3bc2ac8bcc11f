"""What decoding under a database's grammar does: answers that run, answers that are right, speed.

    python bench/rollout_constrained.py --model FOLDER --databases DIR --pairs FILE \\
        --vllm-python ENV/bin/python [--count 200] [--out FILE.json]

The prompts are those of the pairs' questions with the schema; each is answered greedily and at
temperature 1, free and constrained, by vLLM. An answer runs if the executor finds it valid.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from spftcore.config import Config
from spftcore.databases import Catalogue
from spftcore.models import load_tokenizer
from spftcore.pairs import read_pairs
from spftcore.prompts import PromptRenderer, parse_sql
from spftcore.rollout.grammar import sql_grammar
from spftcore.rollout.requests import Sampling
from spftcore.rollout.vllm_engine import VllmEngine, VllmOptions
from spftcore.verify import Executor, Verdict


def main() -> None:
    """Measures and prints a table; --out keeps it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--vllm-python", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--style", default="ddl")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    config = Config.model_validate({"prompt": {"style": given.style}})
    catalogue = Catalogue.open(given.databases)
    renderer = PromptRenderer(config.prompt, catalogue, seed=1)
    tokenizer = load_tokenizer(given.model, config)
    pairs = [
        pair
        for pair in read_pairs(given.pairs, source="benchmark", split="test")
        if pair.database in catalogue
    ][: given.count]
    prompts = [
        tuple(tokenizer(renderer.text_to_sql(p.question, p.database, p.evidence))["input_ids"])
        for p in pairs
    ]
    start = time.perf_counter()
    made = {name: sql_grammar(catalogue[name]) for name in {p.database for p in pairs}}
    seconds = time.perf_counter() - start
    grammars = tuple(made[pair.database] for pair in pairs)
    rows: list[dict[str, Any]] = []
    options = VllmOptions(dtype="float32")
    with (
        VllmEngine(given.model, python=given.vllm_python, options=options) as engine,
        Executor() as executor,
    ):
        for temperature in (0.0, 1.0):
            how = Sampling(
                temperature=temperature, max_new_tokens=given.max_new_tokens, stop=(";",)
            )
            # The first call of each kind pays for what is loaded or compiled once.
            for bounds in ((), grammars, (), grammars):
                start = time.perf_counter()
                got = list(engine.generate(prompts, replace(how, grammars=bounds)))
                took = time.perf_counter() - start
                queries = [
                    (catalogue[pairs[c.prompt].database].path, parse_sql(c.text)) for c in got
                ]
                outcomes = executor.execute(queries)
                judged = executor.verify(
                    [
                        (path, pairs[c.prompt].sql, [sql])
                        for c, (path, sql) in zip(got, queries, strict=True)
                    ]
                )
                tokens = sum(len(completion.ids) for completion in got)
                rows.append(
                    {
                        "temperature": temperature,
                        "constrained": bool(bounds),
                        "answers": len(got),
                        "ran": sum(outcome.ran for outcome in outcomes),
                        "right": sum(found.verdict is Verdict.RIGHT for (found,) in judged),
                        "ended": sum(completion.finish == "stop" for completion in got),
                        "tokens": tokens,
                        "seconds": round(took, 2),
                        "tokens_per_second": round(tokens / took),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": "python bench/rollout_constrained.py "
        + " ".join(argument.rpartition("/")[2] or argument for argument in sys.argv[1:]),
        "vllm": engine.version,
        "prompts": len(prompts),
        "databases": len(made),
        "grammar_seconds": round(seconds, 3),
        "grammar_characters": sorted(len(grammar) for grammar in made.values()),
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
