"""What every generation engine does, whichever it is: a class of tests to be inherited.

A test module of an engine makes a subclass (named `Test…`) with a fixture `made`, which builds an
`EngineUnderTest` of a checkpoint folder and adapter folders; everything expected is computed here
with plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import CPU, TRAVEL_PAIRS, corpus, memorise, prompts_of, tiny_settings

from spftcore.config import Config, LoraConfig
from spftcore.models import LanguageModel, build_tiny, load, save
from spftcore.rollout.requests import Completion, Engine, Sampling

# Of different lengths, so that they are padded when they are decoded together.
QUESTIONS = [
    "How many?",
    "Which cities lie in Peru? Which cities lie in Peru?",
    "Who?",
    "Name the largest city.",
    "How many visits were there in Quito?",
    "List all guests.",
]
CONTEXT = 128


@dataclass(frozen=True)
class EngineUnderTest:
    """An engine and how exact it is.

    Attributes:
        engine: what is tested.
        logprob_error: largest difference of a log-prob from a plain forward pass.
        same_share: share of greedy completions that must equal the plain argmax loop's.
    """

    engine: Engine
    logprob_error: float = 1e-5
    same_share: float = 1.0


Make = Callable[..., EngineUnderTest]


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory, for what is expected, and its folders, for the engine."""

    model: LanguageModel
    folder: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)


def qwen2_that_knows_a_little(folder: Path) -> LanguageModel:
    """A tiny Qwen2 with strong opinions: what it prefers is not a matter of the last bit."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tiny(tiny_settings(), corpus(), seed=1).tokenizer
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=CONTEXT,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )
    found = LanguageModel(model, tokenizer)
    memorise(found)
    save(found, folder)
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("contract")
    model = qwen2_that_knows_a_little(folder / "base")
    adapters = {}
    for number, name in enumerate(("first", "second")):
        config = Config(lora=LoraConfig(rank=4, dropout=0.0))
        adapted = load(folder / "base", config, device=CPU, new_adapter=True)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in adapted.model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.3)
        (folder / "checkpoints").mkdir(exist_ok=True)
        adapters[name] = folder / "checkpoints" / name
        save(adapted, adapters[name])
    return Checkpoint(model, folder / "base", adapters)


def argmax_loop(model: LanguageModel, prompt: Sequence[int], length: int) -> tuple[int, ...]:
    """Greedy decoding without cache, batch or padding."""
    model.model.eval()
    ids = list(prompt)
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    return tuple(ids[len(prompt) :])


def forced_logprobs(
    model: LanguageModel, prompt: Sequence[int], completion: Sequence[int]
) -> list[float]:
    """Log-prob of each token of a completion, from one forward pass over all of it."""
    with torch.no_grad():
        logits = model.model(torch.tensor([[*prompt, *completion]])).logits[0].double()
    scores = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return [float(scores[i, token]) for i, token in enumerate(completion)]


def by_place(completions: Sequence[Completion]) -> dict[tuple[int, int], Completion]:
    found = {(c.prompt, c.sample): c for c in completions}
    assert len(found) == len(completions), "a completion came twice"
    return found


def ask(
    under_test: EngineUnderTest,
    prompts: Sequence[Sequence[int]],
    *,
    adapter: Any = None,
    **how: Any,
) -> dict[tuple[int, int], Completion]:
    return by_place(list(under_test.engine.generate(prompts, Sampling(**how), adapter=adapter)))


class EngineContract:
    """The behaviours; `made` comes from the subclass."""

    many: ClassVar[int] = 12  # samples of a prompt where the test asks for many

    @pytest.fixture(scope="class")
    def under_test(self, checkpoint: Checkpoint, made: Make) -> EngineUnderTest:
        return made(checkpoint.folder, adapters=checkpoint.adapters)

    @pytest.fixture(scope="class")
    def prompts(self, checkpoint: Checkpoint) -> list[tuple[int, ...]]:
        return prompts_of(checkpoint.model, QUESTIONS)

    def test_greedy_decoding_takes_the_likeliest_token_each_time(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest
    ) -> None:
        # Beside what it knows by heart, prompts cut off anywhere, where it has to go on by itself.
        texts = [question for question, _ in TRAVEL_PAIRS] + QUESTIONS
        texts += [text[:cut] for text in texts for cut in range(3, len(text), 5)]
        prompts = prompts_of(checkpoint.model, texts)
        expected = [argmax_loop(checkpoint.model, prompt, 24) for prompt in prompts]
        got = ask(under_test, prompts, max_new_tokens=24)
        same = sum(got[i, 0].ids == ids for i, ids in enumerate(expected))
        assert len(set(expected)) > 10
        assert same >= under_test.same_share * len(prompts)

    def test_every_sample_of_every_prompt_comes_once(
        self, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        for temperature in (0.0, 1.0):
            got = ask(under_test, prompts, samples=3, temperature=temperature, max_new_tokens=5)
            assert sorted(got) == [(i, j) for i in range(len(prompts)) for j in range(3)]

    def test_greedy_samples_of_a_prompt_are_equal(
        self, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        got = ask(under_test, prompts, samples=3, max_new_tokens=8)
        for place in range(len(prompts)):
            assert len({got[place, sample].ids for sample in range(3)}) == 1

    @pytest.mark.parametrize("temperature", [0.0, 0.5, 1.7])
    def test_logprobs_are_the_models_own_whatever_the_temperature(
        self,
        temperature: float,
        checkpoint: Checkpoint,
        under_test: EngineUnderTest,
        prompts: list[tuple[int, ...]],
    ) -> None:
        got = ask(under_test, prompts, samples=2, temperature=temperature, max_new_tokens=12)
        for (place, _), completion in got.items():
            expected = forced_logprobs(checkpoint.model, prompts[place], completion.ids)
            assert completion.logprobs == pytest.approx(expected, abs=under_test.logprob_error)

    def test_samples_repeat_with_the_seed_and_only_then(
        self, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        how: dict[str, Any] = {"samples": 4, "temperature": 1.5, "max_new_tokens": 10}
        first = ask(under_test, prompts, seed=5, **how)
        torch.rand(17)  # what else was drawn does not matter
        again = ask(under_test, prompts, seed=5, **how)
        other = ask(under_test, prompts, seed=6, **how)
        assert [c.ids for c in first.values()] != [other[key].ids for key in first]
        assert {key: c.ids for key, c in first.items()} == {k: c.ids for k, c in again.items()}

    def test_samples_of_a_prompt_differ(
        self, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        got = ask(under_test, prompts[:1], samples=self.many, temperature=3.0, max_new_tokens=10)
        assert len({completion.ids for completion in got.values()}) > self.many // 2

    def test_completions_do_not_depend_on_what_else_is_asked(
        self, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        for temperature in (0.0, 1.0):
            how: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 10, "seed": 3}
            together = ask(under_test, prompts, samples=4, **how)
            # The places before are kept, since a draw depends on the prompt's own place.
            for count in (1, 3):
                fewer = ask(under_test, prompts[:count], samples=2, **how)
                assert {k: c.ids for k, c in fewer.items()} == {k: together[k].ids for k in fewer}

    def test_a_key_carries_the_draw_of_a_prompt_to_another_place(
        self, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        how: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 10, "seed": 3, "samples": 4}
        count = len(prompts)
        first = ask(under_test, prompts, keys=tuple(range(50, 50 + count)), **how)
        turned = ask(under_test, prompts[::-1], keys=tuple(range(50, 50 + count))[::-1], **how)
        other = ask(under_test, prompts, keys=tuple(range(90, 90 + count)), **how)
        for (place, sample), completion in first.items():
            assert completion.ids == turned[count - 1 - place, sample].ids
        assert [c.ids for c in first.values()] != [other[key].ids for key in first]

    def test_end_of_sequence_is_kept_and_nothing_after_it(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest
    ) -> None:
        model = checkpoint.model
        prompts = prompts_of(model, [question for question, _ in TRAVEL_PAIRS])
        got = ask(under_test, prompts, max_new_tokens=60)
        end = model.tokenizer.eos_token_id
        for i, (_, sql) in enumerate(TRAVEL_PAIRS):
            assert got[i, 0].ids == (*prompts_of(model, [sql])[0], end)
            assert got[i, 0].text == sql
            assert got[i, 0].finish == "stop"
            assert len(got[i, 0].logprobs) == len(got[i, 0].ids)

    def test_a_completion_that_does_not_end_is_cut_at_the_limit(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest
    ) -> None:
        prompts = prompts_of(checkpoint.model, [question for question, _ in TRAVEL_PAIRS])
        for completion in ask(under_test, prompts, max_new_tokens=3).values():
            assert (len(completion.ids), completion.finish) == (3, "length")
            assert len(completion.logprobs) == 3

    @pytest.mark.parametrize("stop", [" from", "m ci", "y", ("nights", "city", " where")])
    def test_a_stop_text_ends_a_completion_and_is_no_part_of_it(
        self, stop: Any, checkpoint: Checkpoint, under_test: EngineUnderTest
    ) -> None:
        stops = (stop,) if isinstance(stop, str) else stop
        prompts = prompts_of(checkpoint.model, [question for question, _ in TRAVEL_PAIRS])
        got = ask(under_test, prompts, max_new_tokens=60, stop=stops)
        ended = 0
        for i, (_, sql) in enumerate(TRAVEL_PAIRS):
            ends = [sql.index(text) for text in stops if text in sql]
            assert got[i, 0].text == sql[: min(ends, default=None)]
            assert got[i, 0].finish == "stop"
            assert len(got[i, 0].ids) == len(got[i, 0].logprobs)
            ended += bool(ends)
        assert ended

    def test_an_adapter_answers_with_its_own_weights_and_the_base_without(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        answers = set()
        # Back and forth: nothing of an adapter stays behind.
        for name in (None, "first", "second", None, "first"):
            folder = checkpoint.folder if name is None else checkpoint.adapters[name]
            model = load(folder, Config(), device=CPU)
            got = ask(under_test, prompts, adapter=name, max_new_tokens=8)
            ids = [got[i, 0].ids for i in range(len(prompts))]
            assert ids == [argmax_loop(model, prompt, 8) for prompt in prompts]
            expected = forced_logprobs(model, prompts[0], ids[0])
            assert got[0, 0].logprobs == pytest.approx(expected, abs=under_test.logprob_error)
            answers.add(tuple(ids))
        assert len(answers) == 3

    def test_an_unknown_adapter_is_an_error_that_names_it(
        self, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        from spftcore.errors import SpftError

        with pytest.raises(SpftError, match="third"):
            ask(under_test, prompts, adapter="third")

    def test_a_prompt_without_room_is_reported_and_the_others_are_answered(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        token = prompts[0][0]
        mixed = [prompts[0], (token,) * CONTEXT, prompts[1], (token,) * (CONTEXT + 50)]
        got = ask(under_test, mixed, samples=2, max_new_tokens=6)
        assert len(got) == 8
        for (place, _), completion in got.items():
            if place in (1, 3):
                assert completion.finish == "too_long"
                assert (completion.ids, completion.logprobs, completion.text) == ((), (), "")
            else:
                expected = argmax_loop(checkpoint.model, mixed[place], 6)
                assert completion.ids == expected

    def test_a_completion_ends_where_the_context_ends(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        long = (list(prompts[1]) * CONTEXT)[: CONTEXT - 3]
        got = ask(under_test, [long, prompts[0]], max_new_tokens=20)
        assert got[0, 0].ids == argmax_loop(checkpoint.model, long, 3)
        assert got[1, 0].ids == argmax_loop(checkpoint.model, prompts[0], 20)

    def test_short_completions_come_before_long_ones_are_finished(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest
    ) -> None:
        # The first answer has 12 tokens more than the second; they are decoded side by side.
        asked = [TRAVEL_PAIRS[3], TRAVEL_PAIRS[0]]
        prompts = prompts_of(checkpoint.model, [question for question, _ in asked])
        stream = under_test.engine.generate(prompts, Sampling(max_new_tokens=60))
        assert next(stream).prompt == 1
        assert next(stream).prompt == 0
        assert list(stream) == []

    def test_an_abandoned_stream_leaves_the_engine_usable(
        self, checkpoint: Checkpoint, under_test: EngineUnderTest, prompts: list[tuple[int, ...]]
    ) -> None:
        stream = under_test.engine.generate(prompts, Sampling(max_new_tokens=20), adapter="first")
        next(stream)
        del stream
        got = ask(under_test, prompts[:1], max_new_tokens=8)
        assert got[0, 0].ids == argmax_loop(checkpoint.model, prompts[0], 8)

    def test_no_prompts_give_no_completions(self, under_test: EngineUnderTest) -> None:
        assert ask(under_test, [], max_new_tokens=5) == {}

    def test_a_checkpoints_own_generation_settings_do_not_bend_what_is_decoded(
        self, checkpoint: Checkpoint, made: Make, tmp_path: Path
    ) -> None:
        # Instruct checkpoints bring such settings along (Qwen2.5-Instruct: repetition_penalty 1.1).
        from transformers import GenerationConfig

        save(checkpoint.model, tmp_path / "model")
        own = GenerationConfig(
            do_sample=True, repetition_penalty=3.0, top_k=1, top_p=0.1, temperature=0.1
        )
        own.save_pretrained(tmp_path / "model")
        under_test = made(tmp_path / "model", adapters={})
        prompts = prompts_of(checkpoint.model, QUESTIONS)
        got = ask(under_test, prompts, max_new_tokens=16)
        for i, prompt in enumerate(prompts):
            assert got[i, 0].ids == argmax_loop(checkpoint.model, prompt, 16)
        drawn = ask(under_test, prompts[:1], samples=40, temperature=4.0, max_new_tokens=1)
        assert len({c.ids for c in drawn.values()}) > 5
