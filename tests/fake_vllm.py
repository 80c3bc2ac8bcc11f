"""A stand-in for an interpreter with vLLM: runs our worker on a small fake `vllm` package.

`interpreter(folder)` writes an executable that takes a Python's place. The fake model's next token
is a sum of the tokens so far and the seed, so that tests can work it out by hand; certain tokens in
a prompt make it misbehave as a real engine may.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

END = 1
DIES, DIES_ONCE, HANGS, RAISES, PRINTS, ENDLESS = 901, 902, 903, 904, 905, 906
LARGE, HUGE = 907, 908  # two of the first fit into memory, and none of the other
CONTEXT = 64


def token(ids: list[int], seed: int | None) -> int:
    """The fake model's next token, 2 to 96; `END` after a token that 7 divides."""
    if ENDLESS in ids:
        return 2
    return END if ids[-1] % 7 == 0 else 2 + (sum(ids) * 31 + (seed or 0)) % 95


MODULES = {
    "vllm/__init__.py": """
import json, os, signal, sys
from types import SimpleNamespace as Record
sys.path.append(TESTS)
import fake_vllm as fake

__version__ = "fake"


class SamplingParams:
    def __init__(self, **given):
        self.__dict__.update(given)


class Engine:
    def __init__(self, model, context, rows):
        self.model, self.running, self.rows = model, {}, rows
        self.vllm_config = Record(
            model_config=Record(max_model_len=context),
            scheduler_config=Record(max_num_seqs=rows),
        )
        self.engine_core = Record(shutdown=lambda: None)

    def add_request(self, name, prompt, params, lora_request=None):
        ids = prompt["prompt_token_ids"]
        if not ids:
            raise ValueError("the prompt is empty")
        state = Record(name=name, ids=list(ids), new=[], params=params, lora=lora_request)
        self.running[name] = state
        return name

    def abort_request(self, names, internal=False):
        for name in names:
            self.running.pop(name, None)
        with open(os.path.join(self.model, "aborted"), "a") as file:
            file.write(f"{len(self.running)} left\\n")

    def step(self):
        done = []
        batch = list(self.running.values())[: self.rows]
        large = [state for state in batch if fake.LARGE in state.ids]
        if len(large) > 2 or any(fake.HUGE in state.ids for state in batch):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        for state in batch:
            self.misbehave(state.ids)
            seed = (state.params.seed or 0) + (state.lora.number if state.lora else 0)
            state.new.append(fake.token(state.ids + state.new, seed))
            end = state.new[-1] == fake.END
            if end or len(state.new) == state.params.max_tokens:
                del self.running[state.name]
                done.append(self.output(state, "stop" if end else "length"))
        return done

    def misbehave(self, ids):
        once = os.path.join(self.model, "died")
        if fake.DIES in ids:
            print("RuntimeError: the fake engine broke", file=sys.stderr, flush=True)
            os._exit(3)
        if fake.DIES_ONCE in ids and not os.path.exists(once) and len(self.running) < 3:
            open(once, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if fake.HANGS in ids:
            signal.pause()
        if fake.RAISES in ids:
            raise RuntimeError("the fake engine raised")
        if fake.PRINTS in ids:
            print("not for the protocol", flush=True)

    def output(self, state, reason):
        text = " ".join(str(token) for token in state.new if token != fake.END)
        logprobs = [{token: Record(logprob=-token / 8)} for token in state.new]
        sample = Record(text=text, token_ids=state.new, logprobs=logprobs, finish_reason=reason)
        return Record(finished=True, request_id=state.name, outputs=[sample])


class LLM:
    def __init__(self, model, max_model_len=fake.CONTEXT, max_num_seqs=16, **options):
        if not os.path.exists(os.path.join(model, "config.json")):
            raise OSError(f"no model in {model}")
        with open(os.path.join(model, "opened"), "a") as file:
            file.write(json.dumps(options, default=str) + "\\n")
        with open(os.path.join(model, "gpus"), "w") as file:
            file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        self.llm_engine = Engine(model, max_model_len, max_num_seqs)

    def collective_rpc(self, method, kwargs):
        if os.path.exists(os.path.join(kwargs["weights_path"], "broken")):
            raise ValueError("the weights are broken")
        with open(os.path.join(kwargs["weights_path"], "reloaded"), "a") as file:
            file.write(method + "\\n")
        self.llm_engine.model = kwargs["weights_path"]

    def apply_model(self, function):
        pass

    def reset_prefix_cache(self):
        pass
""",
    "vllm/sampling_params.py": """
class RequestOutputKind:
    FINAL_ONLY = "final"


class StructuredOutputsParams:
    def __init__(self, grammar):
        self.grammar = grammar
""",
    "vllm/platforms.py": """
class current_platform:
    is_cpu = staticmethod(lambda: True)
""",
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": """
class LoRARequest:
    def __init__(self, name, number, folder):
        self.name, self.number, self.folder = name, number, folder
""",
}

INTERPRETER = """#!{python} -S
import runpy, sys
sys.path.insert(0, {folder!r})
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    del sys.argv[0]
    sys.path.insert(0, sys.argv[0].rpartition("/")[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def interpreter(folder: Path) -> Path:
    """Writes the fake package into a folder and the interpreter that has it; returns the latter."""
    for name, text in MODULES.items():
        path = folder / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("TESTS", repr(str(Path(__file__).parent))), "utf-8")
    path = folder / "python"
    found = INTERPRETER.format(python=sys.executable, folder=str(folder / "packages"))
    path.write_text(found, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
