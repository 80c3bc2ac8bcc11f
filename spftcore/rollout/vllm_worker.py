"""vLLM behind a line protocol: this one file runs by path under the interpreter that has vLLM.

It imports nothing of spftcore, so that vLLM's environment needs nothing but vLLM. Requests are
JSON lines on standard input, replies JSON lines on standard output, one request at a time; whatever
vLLM prints goes to standard error.

    {"id": 1, "do": "open", "protocol": 1, "model": FOLDER, "options": {…}}
    {"id": 2, "do": "generate", "prompts": {"0": [ids]}, "requests": [[prompt, sample, seed]],
     "sampling": {…}, "adapter": null | [name, number, FOLDER], "grammars": {"0": EBNF}}
    {"id": 3, "do": "reload", "model": FOLDER}     weights of the same architecture, in place
    {"id": 4, "do": "sleep"} {"id": 5, "do": "wake"} {"id": 6, "do": "close"}
    {"id": 2, "do": "cancel"}                      the one that may come while another is answered

Every reply bears the id of its request; the last one holds `done`. A reply with `completion` is
[prompt, sample, text, ids, log-probs, finish]; one with `alive` says that generation goes on; one
with `failed` is [prompt, sample, reason]; `error` ends the request, and the worker lives on.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

PROTOCOL = 1
ALIVE_SECONDS = 2.0  # a sign of life so often while nothing is finished


def set_environment() -> None:
    """What vLLM reads from the environment at import, where the user has not set it.

    One process with the engine in it (no child that could outlive it); no usage statistics sent
    anywhere; no thread pinned to a core, since training shares the machine; a key-value cache of
    1 GiB on a CPU, where vLLM would take half of the memory.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def end_of(error: BaseException) -> str:
    """An exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


class Session:
    """A vLLM engine and the requests it answers."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.sleeps = False

    def answer(
        self, request: dict[str, Any], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[dict[str, Any]]:
        """Replies to one request, the last with `done`.

        Raises:
            Whatever vLLM raises: the caller makes an `error` of it.
        """
        do = request["do"]
        if do == "open":
            yield self.open(request["model"], request["options"]) | {"done": True}
        elif do == "generate":
            yield from self.generate(request, cancelled)
            yield {"done": True}
        elif do == "reload":
            self.reload(request["model"])
            yield {"done": True}
        elif do == "sleep":
            if self.sleeps:
                self.llm.sleep(level=1)
            yield {"done": True, "slept": self.sleeps}
        elif do == "wake":
            if self.sleeps:
                self.llm.wake_up()
            yield {"done": True}
        elif do == "close":
            self.close()
            yield {"done": True}
        else:
            raise ValueError(f"unknown request {do!r}")

    def open(self, model: str, options: dict[str, Any]) -> dict[str, Any]:
        import vllm
        from vllm.platforms import current_platform

        options = dict(options)
        self.sleeps = options.pop("sleep") and not current_platform.is_cpu()
        if current_platform.is_cpu():
            # Compiling takes minutes on a CPU and gains nothing on small models; blocks of 32
            # tokens let prompts of 100 tokens share theirs, which vLLM's 128 would not.
            # Prompts are read whole: a seeded draw fails where one is cut (vLLM 0.32 sets back the
            # generator of a draw it throws away, which those of a CPU cannot be).
            options |= {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
            del options["gpu_memory_utilization"]
        self.llm = vllm.LLM(
            model=model,
            # A checkpoint's own settings (repetition penalty, top-k) would bend what is decoded.
            generation_config="vllm",
            logprobs_mode="raw_logprobs",
            enable_prefix_caching=True,
            enable_sleep_mode=self.sleeps,
            disable_log_stats=True,
            seed=0,
            **options,
        )
        config = self.llm.llm_engine.vllm_config
        return {
            "protocol": PROTOCOL,
            "vllm": vllm.__version__,
            "context": int(config.model_config.max_model_len),
            "rows": int(config.scheduler_config.max_num_seqs),
        }

    def reload(self, model: str) -> None:
        from vllm.platforms import current_platform

        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": model})
        if current_platform.is_cpu():
            # A head tied to the embeddings keeps a packed copy of them, which vLLM 0.32 forgets.
            self.llm.apply_model(pack_head_again)
        self.llm.reset_prefix_cache()

    def generate(
        self, request: dict[str, Any], cancelled: Callable[[], bool]
    ) -> Iterator[dict[str, Any]]:
        from vllm.lora.request import LoRARequest

        engine = self.llm.llm_engine
        adapter = LoRARequest(*request["adapter"]) if request["adapter"] else None
        names: dict[str, tuple[int, int]] = {}
        given: list[str] = []  # the engine's own names of them, by which they are cancelled
        told = time.monotonic()
        try:
            for prompt, sample, seed in request["requests"]:
                name = f"{request['id']}-{prompt}-{sample}"
                ids = request["prompts"][str(prompt)]
                grammar = request.get("grammars", {}).get(str(prompt))
                try:
                    parameters = self.parameters(request["sampling"], seed, grammar)
                    given.append(
                        engine.add_request(
                            name, {"prompt_token_ids": ids}, parameters, lora_request=adapter
                        )
                    )
                except Exception as error:  # of this prompt alone: which class, vLLM varies
                    yield {"failed": [prompt, sample, end_of(error)]}
                else:
                    names[name] = (prompt, sample)
                if time.monotonic() - told > ALIVE_SECONDS:
                    told = time.monotonic()
                    yield {"alive": len(names)}
            while names:
                for output in engine.step():
                    if output.finished and output.request_id in names:
                        prompt, sample = names.pop(output.request_id)
                        told = time.monotonic()
                        yield finished(prompt, sample, output.outputs[0])
                if cancelled():
                    return
                if time.monotonic() - told > ALIVE_SECONDS:
                    told = time.monotonic()
                    yield {"alive": len(names)}
        finally:
            if names:
                engine.abort_request(given, internal=True)

    def parameters(self, sampling: dict[str, Any], seed: int, grammar: str | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        temperature = sampling["temperature"]
        found = SamplingParams(
            temperature=min(temperature, 2.0),
            max_tokens=sampling["max_new_tokens"],
            stop=sampling["stop"] or None,
            seed=seed if temperature > 0 else None,
            logprobs=0,  # of the token itself alone
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(grammar=grammar) if grammar else None,
        )
        if temperature > 2:
            # vLLM refuses to be asked for it, as the OpenAI interface does, and computes it if the
            # parameters are not checked again by a deep copy.
            found.temperature, found.skip_clone = temperature, True
        return found

    def close(self) -> None:
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None


def pack_head_again(model: Any) -> None:
    for layer in model.modules():
        if type(layer).__name__ == "ParallelLMHead":
            layer.quant_method.process_weights_after_loading(layer)


def finished(prompt: int, sample: int, output: Any) -> dict[str, Any]:
    ids = list(output.token_ids)
    logprobs = [
        float(among[token].logprob)
        for token, among in zip(ids, output.logprobs or [], strict=False)
    ]
    if output.finish_reason in ("stop", "length"):
        row = [prompt, sample, output.text, ids, logprobs, output.finish_reason]
        return {"completion": row}
    return {"failed": [prompt, sample, f"vLLM ended it with '{output.finish_reason}'"]}


class Lines:
    """JSON lines on a file descriptor, which can be asked whether one is there."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.buffer = b""
        self.ended = False

    def read(self, *, wait: bool) -> dict[str, Any] | None:
        """The next line; None at the end, or if none is there and we do not wait."""
        while b"\n" not in self.buffer:
            if self.ended or not (wait or select.select([self.descriptor], [], [], 0)[0]):
                return None
            piece = os.read(self.descriptor, 1 << 20)
            self.ended = not piece
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


def serve(source: int, target: int) -> None:
    """Answers requests until the input ends: the process that asked closed it, or is gone."""
    lines, session = Lines(source), Session()

    def cancelled() -> bool:
        message = lines.read(wait=False)
        return lines.ended or (message is not None and message["do"] == "cancel")

    with os.fdopen(target, "w", encoding="utf-8", buffering=1) as out:
        while (request := lines.read(wait=True)) is not None:
            if request["do"] == "cancel":  # of a request that was answered meanwhile
                continue
            try:
                for reply in session.answer(request, cancelled):
                    out.write(json.dumps({"id": request["id"]} | reply) + "\n")
            except BrokenPipeError:
                return
            except Exception as error:
                traceback.print_exc()
                reply = {"id": request["id"], "error": end_of(error), "done": True}
                out.write(json.dumps(reply) + "\n")
            if request["do"] == "close":
                return


if __name__ == "__main__":
    # Run by path, this file's folder stands first: its modules must not hide installed ones.
    if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        sys.path.pop(0)
    replies = os.dup(1)
    os.dup2(2, 1)
    set_environment()
    serve(0, replies)
