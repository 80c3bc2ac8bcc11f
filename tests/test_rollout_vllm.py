"""The real vLLM keeps the contract of all engines. `make test-vllm` runs this; it needs an
interpreter with vLLM, named by $SPFT_VLLM_PYTHON."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from conftest import CPU, TRAVEL_PAIRS, corpus, prompts_of, tiny_settings
from engine_contract import (
    Checkpoint,
    EngineContract,
    EngineUnderTest,
    Make,
    argmax_loop,
    ask,
    by_place,
    forced_logprobs,
)
from engine_contract import checkpoint as checkpoint

from spftcore.config import Config
from spftcore.errors import SpftError
from spftcore.models import LanguageModel, build_tiny, load, save
from spftcore.rollout.hf import HfEngine
from spftcore.rollout.requests import Sampling
from spftcore.rollout.served import ServedEngine
from spftcore.rollout.vllm_engine import VllmEngine, VllmOptions

pytestmark = pytest.mark.skipif(
    "SPFT_VLLM_PYTHON" not in os.environ,
    reason="no interpreter with vLLM: $SPFT_VLLM_PYTHON is not set (make test-vllm)",
)


@pytest.fixture(scope="module")
def python() -> Path:
    return Path(os.environ["SPFT_VLLM_PYTHON"])


@pytest.fixture(scope="module")
def made(python: Path) -> Iterator[Make]:
    opened: list[VllmEngine] = []

    def make(folder: Path, *, adapters: Mapping[str, Path]) -> EngineUnderTest:
        options = VllmOptions(dtype="float32", lora_rank=8 if adapters else 0)
        engine = VllmEngine(folder, python=python, options=options)
        opened.append(engine)
        for name, adapter in adapters.items():
            engine.load_adapter(name, adapter)
        return EngineUnderTest(engine, logprob_error=1e-3, same_share=0.99)

    yield make
    for engine in opened:
        engine.close()


class TestVllm(EngineContract):
    @pytest.fixture(scope="class", name="made")
    def made_for_the_class(self, made: Make) -> Make:
        return made


@pytest.fixture(scope="module")
def served(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Engines that ask a `vllm serve` of their own."""
    processes: list[subprocess.Popen[bytes]] = []

    def make(folder: Path, *, adapters: Mapping[str, Path]) -> EngineUnderTest:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
        command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
        command += ["--enforce-eager", "--generation-config", "vllm", "--block-size", "32"]
        command += ["--enable-lora", "--max-lora-rank", "8", "--served-model-name", "base"]
        # Room for one adapter more than there are: see docs/vllm.md.
        command += ["--max-loras", "3"]
        settings = {
            "PYTHONSAFEPATH": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_API_KEY": "sk-of-the-test",
        }
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=file,
                stderr=file,
                env=os.environ | settings,
                start_new_session=True,
            )
        processes.append(process)
        os.environ["SPFT_TEST_KEY"] = "sk-of-the-test"
        # The engine's own retries wait for the server to come up.
        url = f"http://127.0.0.1:{port}/v1"
        pauses = (5.0,) * 60
        try:
            engine = ServedEngine(url, key_variable="SPFT_TEST_KEY", pauses=pauses)
        except SpftError as error:
            pytest.fail(f"{error}\n{log.read_text()[-3000:]}")
        for name, adapter in adapters.items():
            engine.load_adapter(name, adapter)
        return EngineUnderTest(engine, logprob_error=1e-3, same_share=0.99)

    yield make
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class TestServedByVllm(EngineContract):
    @pytest.fixture(scope="class")
    def made(self, served: Make) -> Make:
        return served

    def test_samples_of_a_prompt_differ(self) -> None:  # type: ignore[override]
        pytest.skip("asks at temperature 3, and the OpenAI interface ends at 2")

    def test_a_checkpoints_own_generation_settings_do_not_bend_what_is_decoded(  # type: ignore[override]
        self,
    ) -> None:
        pytest.skip("which of them count is said where the server is started")

    def test_short_completions_come_before_long_ones_are_finished(  # type: ignore[override]
        self,
    ) -> None:
        pytest.skip("two requests of 12 tokens' difference reach a server in an order of their own")

    def test_the_base_and_an_adapter_answer_at_the_same_time(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest
    ) -> None:
        engine = under_test.engine
        (prompt,) = prompts_of(checkpoint.model, ["Who?"])
        expected = argmax_loop(checkpoint.model, prompt, 8)
        how = Sampling(samples=12, temperature=1.0, max_new_tokens=60)
        for _ in range(10):
            adapted = engine.generate([prompt], how, adapter="first")
            next(adapted)  # the others are on their way
            (got,) = engine.generate([prompt], Sampling(max_new_tokens=8))
            assert got.ids == expected
            adapted.close()


def two_hundred(model: LanguageModel) -> list[tuple[int, ...]]:
    """Prompts of every length up to 60 tokens, cut from the questions and queries."""
    text = " ".join(part for pair in TRAVEL_PAIRS for part in pair)
    (ids,) = prompts_of(model, [text])
    return [ids[start : start + 1 + start % 60] for start in range(200 % len(ids))] + [
        (ids * 3)[start : start + 2 + (7 * start) % 59] for start in range(200 - 200 % len(ids))
    ]


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint, python: Path) -> Iterator[VllmEngine]:
    options = VllmOptions(dtype="float32")
    with VllmEngine(checkpoint.folder, python=python, options=options) as found:
        yield found


def test_greedy_answers_to_200_prompts_are_those_of_hf(
    checkpoint: Checkpoint, engine: VllmEngine
) -> None:
    prompts = two_hundred(checkpoint.model)
    assert len(prompts) == 200
    sampling = Sampling(max_new_tokens=24)
    hf = by_place(list(HfEngine(checkpoint.model).generate(prompts, sampling)))
    vllm = by_place(list(engine.generate(prompts, sampling)))
    assert len({completion.text for completion in hf.values()}) > 50
    same = sum(vllm[key].text == hf[key].text for key in hf)
    assert same >= 198
    for key, completion in vllm.items():
        expected = forced_logprobs(checkpoint.model, prompts[key[0]], completion.ids)
        assert completion.logprobs == pytest.approx(expected, abs=1e-3)
        # Where they differ, it is at two tokens that are all but equally likely.
        if completion.text != hf[key].text:
            pairs = zip(completion.ids, hf[key].ids, strict=False)
            first = next(i for i, (ours, theirs) in enumerate(pairs) if ours != theirs)
            assert completion.logprobs[first] == pytest.approx(hf[key].logprobs[first], abs=1e-3)


def test_sampled_tokens_come_as_often_as_the_model_says(
    checkpoint: Checkpoint, engine: VllmEngine
) -> None:
    # One token after one prompt, 2,000 times at temperature 1.5: each of the ten likeliest tokens
    # within five standard deviations, and all the others together.
    (prompt,) = prompts_of(checkpoint.model, ["Wh"])
    sampling = Sampling(samples=2000, temperature=1.5, max_new_tokens=1, seed=4)
    drawn = [completion.ids[0] for completion in engine.generate([prompt], sampling)]
    with torch.no_grad():
        logits = checkpoint.model.model(torch.tensor([prompt])).logits[0, -1].double()
    chance = (logits / 1.5).softmax(-1)
    counts = torch.bincount(torch.tensor(drawn), minlength=len(chance)).double()
    order = chance.argsort(descending=True)
    for group in [[int(token)] for token in order[:10]] + [order[10:].tolist()]:
        expected = 2000 * float(chance[group].sum())
        deviation = (expected * (1 - expected / 2000)) ** 0.5
        assert abs(float(counts[group].sum()) - expected) < 5 * deviation + 1


def test_seeds_hold_when_there_is_more_to_read_than_fits_one_step(
    checkpoint: Checkpoint, engine: VllmEngine
) -> None:
    # 300 prompts of 60 tokens and more: several times vLLM's 4,096 tokens a step.
    (ids,) = prompts_of(checkpoint.model, [" ".join(sql for _, sql in TRAVEL_PAIRS)])
    prompts = [tuple((ids * 3)[i % len(ids) :][: 60 + i % 40]) for i in range(300)]
    how = Sampling(temperature=1.0, max_new_tokens=4, seed=2)
    first = by_place(list(engine.generate(prompts, how)))
    assert all(completion.ids for completion in first.values())
    fewer = by_place(list(engine.generate(prompts[:40], how)))
    assert {key: first[key].ids for key in fewer} == {key: c.ids for key, c in fewer.items()}


def test_weights_are_changed_in_place_and_old_prefixes_forgotten(
    checkpoint: Checkpoint, engine: VllmEngine, tmp_path: Path
) -> None:
    # Loading adds a token to this tokenizer: both folders must have been through it.
    save(load(checkpoint.folder, Config(), device=CPU), tmp_path / "first")
    changed = load(tmp_path / "first", Config(), device=CPU)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save(changed, tmp_path / "changed")
    # Longer than a block of the cache, so that it would be found there.
    prompts = [prompt for prompt in two_hundred(checkpoint.model) if len(prompt) > 40][:20]
    under_test = EngineUnderTest(engine)
    answers = []
    engine.load_weights(tmp_path / "first")
    worker = engine._worker
    for folder, model in (
        (tmp_path / "first", checkpoint.model),
        (tmp_path / "changed", changed),
        (tmp_path / "first", checkpoint.model),
    ):
        engine.load_weights(folder)
        assert engine._worker is worker
        got = ask(under_test, prompts, max_new_tokens=10)
        expected = [argmax_loop(model, prompt, 10) for prompt in prompts]
        assert [got[i, 0].ids for i in range(len(prompts))] == expected
        answers.append(expected)
    assert answers[0] != answers[1]


def test_a_head_tied_to_the_embeddings_changes_with_them(python: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tiny(tiny_settings(), corpus(), seed=1).tokenizer
    torch.manual_seed(3)
    network = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=384,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
            dtype="float32",
        )
    )
    model = LanguageModel(network, tokenizer)
    save(model, tmp_path / "first")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save(model, tmp_path / "second")
    prompts = two_hundred(model)[:20]
    options = VllmOptions(dtype="float32")
    with VllmEngine(tmp_path / "first", python=python, options=options) as engine:
        worker = engine._worker
        engine.load_weights(tmp_path / "second")
        assert engine._worker is worker
        for (place, _), found in ask(EngineUnderTest(engine), prompts, max_new_tokens=8).items():
            expected = forced_logprobs(model, prompts[place], found.ids)
            assert found.logprobs == pytest.approx(expected, abs=1e-5)


def test_sleeping_changes_no_answer(checkpoint: Checkpoint, engine: VllmEngine) -> None:
    prompts = two_hundred(checkpoint.model)[:5]
    before = ask(EngineUnderTest(engine), prompts, max_new_tokens=10)
    engine.sleep()
    engine.wake()
    assert ask(EngineUnderTest(engine), prompts, max_new_tokens=10) == before


IN_PROCESS = """
import sys
from spftcore.rollout.requests import Sampling
from spftcore.rollout.served import ServedEngine
from spftcore.rollout.vllm_engine import VllmEngine, VllmOptions

if __name__ == "__main__":
    options = VllmOptions(dtype="float32")
    with VllmEngine(sys.argv[1], in_process=True, options=options) as engine:
        stream = engine.generate([[5, 6], [7, 8]], Sampling(max_new_tokens=100))
        next(stream)
        stream.close()
        prompts = [[int(i) for i in prompt.split(",")] for prompt in sys.argv[2:]]
        got = list(engine.generate(prompts, Sampling(max_new_tokens=8)))
        for completion in sorted(got, key=lambda c: c.prompt):
            print("ids", *completion.ids)
"""


def test_vllm_runs_in_the_process_that_has_it(
    checkpoint: Checkpoint, python: Path, tmp_path: Path
) -> None:
    (tmp_path / "ask.py").write_text(IN_PROCESS)
    # spftcore alone, and not what lies beside it.
    (tmp_path / "spftcore").symlink_to(Path(__file__).parents[1] / "spftcore")
    prompts = two_hundred(checkpoint.model)[:4]
    given = [",".join(map(str, prompt)) for prompt in prompts]
    ended = subprocess.run(
        [python, tmp_path / "ask.py", checkpoint.folder, *given],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = [line for line in ended.stdout.splitlines() if line.startswith("ids")]
    got = [tuple(map(int, line.split()[1:])) for line in lines]
    assert got == [argmax_loop(checkpoint.model, prompt, 8) for prompt in prompts]
