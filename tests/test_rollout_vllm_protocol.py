"""The vLLM engine's own part: asking a worker, watching it, ending it. The worker is ours, under an
interpreter whose vLLM is a fake one (`fake_vllm`); `test_rollout_vllm.py` asks the real one."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_vllm as fake
import pytest

from spftcore.errors import SpftError
from spftcore.rollout.requests import Completion, Sampling
from spftcore.rollout.vllm_engine import VllmEngine, VllmOptions, draw_seed


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.interpreter(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model")


def checkpoint(folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8} | settings))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def engine(python: Path, model: Path) -> Iterator[VllmEngine]:
    with VllmEngine(model, python=python) as found:
        yield found


def expected(ids: list[int], seed: int, limit: int) -> tuple[int, ...]:
    new: list[int] = []
    while len(new) < limit and fake.END not in new:
        new.append(fake.token(ids + new, seed))
    return tuple(new)


def alive(pid: int) -> bool:
    """Whether a process is there, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def pid(engine: VllmEngine) -> int:
    worker: Any = engine._worker
    return int(worker.pid)


def by_place(completions: list[Completion]) -> dict[tuple[int, int], Completion]:
    found = {(c.prompt, c.sample): c for c in completions}
    assert len(found) == len(completions)
    return found


PROMPTS = [[3, 5], [7, 9, 11], [20], [4, 4, 4, 4]]


def test_every_sample_comes_once_with_its_own_seed(engine: VllmEngine) -> None:
    sampling = Sampling(samples=3, temperature=1.0, max_new_tokens=6, seed=9)
    got = by_place(list(engine.generate(PROMPTS, sampling)))
    assert sorted(got) == [(i, j) for i in range(4) for j in range(3)]
    for (i, j), completion in got.items():
        assert completion.ids == expected(PROMPTS[i], draw_seed(9, i, j), 6)
        assert completion.logprobs == tuple(-token / 8 for token in completion.ids)
        assert completion.finish == ("stop" if fake.END in completion.ids else "length")


def test_greedy_decoding_has_no_seed(engine: VllmEngine) -> None:
    got = by_place(list(engine.generate(PROMPTS, Sampling(max_new_tokens=6, seed=9))))
    assert [got[i, 0].ids for i in range(4)] == [expected(ids, 0, 6) for ids in PROMPTS]


def test_what_is_finished_first_comes_first(engine: VllmEngine) -> None:
    # The fake model ends after a token that 7 divides: the second prompt at once.
    stream = engine.generate([[3, 5], [7]], Sampling(max_new_tokens=40))
    assert next(stream).prompt == 1
    assert [completion.prompt for completion in stream] == [0]


def test_prompts_that_cannot_be_answered_leave_the_others_alone(engine: VllmEngine) -> None:
    prompts = [[5] * fake.CONTEXT, [3, 5], [], [5] * (fake.CONTEXT + 9)]
    got = by_place(list(engine.generate(prompts, Sampling(samples=2, max_new_tokens=4))))
    finishes = [got[i, 1].finish for i in range(4)]
    assert finishes == ["too_long", "stop", "failed", "too_long"]
    assert engine.failures == {"ValueError: the prompt is empty": 1}


def test_what_vllm_prints_does_not_disturb_the_replies(engine: VllmEngine) -> None:
    (got,) = engine.generate([[fake.PRINTS, 3]], Sampling(max_new_tokens=3))
    assert len(got.ids) == 3


def test_an_abandoned_stream_is_cancelled_and_the_next_one_is_answered(
    engine: VllmEngine, model: Path
) -> None:
    stream = engine.generate([[fake.ENDLESS], [7]], Sampling(max_new_tokens=10**9))
    next(stream)
    before = pid(engine)
    stream.close()
    (got,) = engine.generate([[3, 5]], Sampling(max_new_tokens=5))
    assert got.ids == expected([3, 5], 0, 5)
    assert (model / "aborted").read_text() == "0 left\n"
    assert (pid(engine), engine.restarts) == (before, 0)


def test_a_stream_that_an_exception_still_holds_does_not_stand_in_the_way(
    python: Path, model: Path
) -> None:
    with VllmEngine(model, python=python, silent_seconds=5) as engine:
        before = pid(engine)
        held = engine.generate([[fake.ENDLESS], [7]], Sampling(max_new_tokens=10**9))
        next(held)
        engine.sleep()  # as when a stage ends with an error, whose traceback holds the stream
        (got,) = engine.generate([[3, 5]], Sampling(max_new_tokens=5))
        assert got.ids == expected([3, 5], 0, 5)
        assert (pid(engine), engine.restarts) == (before, 0)
        with pytest.raises(SpftError, match="asked for something else"):
            next(held)


def test_an_interrupted_stream_does_not_stand_in_the_way(
    python: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VllmEngine(model, python=python, silent_seconds=5) as engine:
        stream = engine.generate([[fake.ENDLESS], [7]], Sampling(max_new_tokens=10**9))
        next(stream)
        worker: Any = engine._worker

        def interrupted(seconds: float) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(worker, "_receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(stream)
        before = pid(engine)
        engine.sleep()
        assert (pid(engine), engine.restarts) == (before, 0)


def test_an_engine_that_failed_for_good_can_be_laid_to_rest(engine: VllmEngine) -> None:
    with pytest.raises(SpftError, match="twice"):
        list(engine.generate([[fake.RAISES, 3]], Sampling(max_new_tokens=5)))
    engine.sleep()  # must not raise: it would hide why


def test_adapters_are_asked_for_by_name(python: Path, model: Path, tmp_path: Path) -> None:
    for name, rank in (("first", 4), ("second", 8), ("wide", 64)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
    with VllmEngine(model, python=python, options=VllmOptions(lora_rank=6)) as engine:
        engine.load_adapter("first", tmp_path / "first")
        engine.load_adapter("second", tmp_path / "second")
        for name, number in ((None, 0), ("second", 2), ("first", 1)):
            (got,) = engine.generate([[3, 5]], Sampling(max_new_tokens=5), adapter=name)
            assert got.ids == expected([3, 5], number, 5)
        asked = engine._adapters["first"]
        engine.load_adapter("first", tmp_path / "first")  # written anew: no prefix cached before
        assert all(engine._adapters["first"][i] != asked[i] for i in (0, 1))
        with pytest.raises(SpftError, match=r"'third'.*first, second"):
            list(engine.generate([[3]], Sampling(), adapter="third"))
        with pytest.raises(SpftError, match=r"rank 64.*up to rank 8"):
            engine.load_adapter("wide", tmp_path / "wide")
        with pytest.raises(SpftError, match="is no adapter"):
            engine.load_adapter("none", tmp_path)
    options = json.loads((model / "opened").read_text())
    assert (options["enable_lora"], options["max_lora_rank"]) == (True, 8)


@pytest.mark.parametrize(
    ("seen", "gpu", "expected_gpus"),
    [(None, None, "all"), (None, 2, "2"), ("4,5,7", 2, "7"), ("4,5,7", None, "4,5,7")],
)
def test_each_process_of_a_run_has_vllm_on_its_own_gpu(
    seen: str | None,
    gpu: int | None,
    expected_gpus: str,
    python: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    VllmEngine(model, python=python, options=VllmOptions(gpu=gpu)).close()
    assert (model / "gpus").read_text() == expected_gpus


def test_a_worker_that_dies_is_started_again_for_what_is_missing(python: Path, model: Path) -> None:
    said: list[str] = []
    with VllmEngine(model, python=python, say=said.append) as engine:
        # Four are asked for; the worker kills itself when two of them are left.
        prompts = [[3, 5, fake.DIES_ONCE], [7], [14], [20]]
        got = by_place(list(engine.generate(prompts, Sampling(max_new_tokens=5))))
        assert [got[i, 0].ids for i in range(4)] == [expected(ids, 0, 5) for ids in prompts]
        assert engine.restarts == 1
    assert len(said) == 1
    assert "killed by SIGKILL" in said[0]
    assert "the 2 completions" in said[0]


def test_a_worker_that_dies_twice_is_an_error_with_what_it_wrote(
    engine: VllmEngine,
) -> None:
    with pytest.raises(SpftError, match=r"twice.*code 3.*the fake engine broke.*2 completions"):
        list(engine.generate([[fake.DIES, 3], [7]], Sampling(max_new_tokens=5)))


def test_an_engine_that_raises_is_started_again(engine: VllmEngine) -> None:
    with pytest.raises(SpftError, match=r"twice.*the fake engine raised"):
        list(engine.generate([[fake.RAISES, 3]], Sampling(max_new_tokens=5)))
    assert engine.restarts == 1


def test_where_memory_is_short_fewer_are_computed_together(python: Path, model: Path) -> None:
    said: list[str] = []
    with VllmEngine(model, python=python, say=said.append) as engine:
        prompts = [[i, fake.LARGE] for i in range(2, 10)]
        got = by_place(list(engine.generate(prompts, Sampling(max_new_tokens=5))))
        assert [got[i, 0].ids for i in range(8)] == [expected(ids, 0, 5) for ids in prompts]
        assert engine.restarts == 3
        list(engine.generate(prompts, Sampling(max_new_tokens=5)))
        assert engine.restarts == 3
    # It starts with 16, and three of these are too many.
    for text, rows in zip(said, (8, 4, 2), strict=True):
        assert "out of memory" in text
        assert f"at most {rows} of them together" in text


def test_memory_that_is_short_for_one_completion_is_an_error(engine: VllmEngine) -> None:
    # 16 together, then 8, 4, 2, 1, and once more.
    with pytest.raises(SpftError, match=r"twice.*memory"):
        list(engine.generate([[fake.HUGE]], Sampling(max_new_tokens=5)))
    assert engine.restarts == 5


def test_a_worker_that_hangs_is_ended(python: Path, model: Path) -> None:
    with VllmEngine(model, python=python, silent_seconds=0.3) as engine:
        found = pid(engine)
        with pytest.raises(SpftError, match="no sign of life"):
            list(engine.generate([[fake.HANGS]], Sampling(max_new_tokens=5)))
    assert not alive(found)


def test_weights_of_the_same_architecture_are_taken_in_place(
    engine: VllmEngine, tmp_path: Path
) -> None:
    same = checkpoint(tmp_path / "same", transformers_version="6")
    other = checkpoint(tmp_path / "other", num_hidden_layers=9)
    before = pid(engine)
    engine.load_weights(same)
    assert pid(engine) == before
    assert (same / "reloaded").read_text() == "reload_weights\n"
    engine.load_weights(other)
    assert pid(engine) != before
    assert not alive(before)
    assert (other / "opened").exists()


def test_another_architecture_written_into_the_same_folder_is_opened_anew(
    engine: VllmEngine, model: Path
) -> None:
    before = pid(engine)
    (model / "tokenizer.json").write_text('{"another": 1}')
    engine.load_weights(model)
    assert pid(engine) != before


def test_hub_ids_are_not_taken_for_one_another(engine: VllmEngine) -> None:
    before = pid(engine)
    with pytest.raises(SpftError, match="no model in a/b"):  # of the fake; two tell no shape
        engine.load_weights("a/b")
    assert not alive(before)


def test_a_restart_opens_the_weights_that_were_loaded_last(
    engine: VllmEngine, tmp_path: Path
) -> None:
    newer = checkpoint(tmp_path / "newer")
    engine.load_weights(newer)
    list(engine.generate([[3, fake.DIES_ONCE]], Sampling(max_new_tokens=3)))
    assert (newer / "opened").exists()


def test_weights_that_cannot_be_loaded_are_an_error(engine: VllmEngine, tmp_path: Path) -> None:
    broken = checkpoint(tmp_path / "broken")
    (broken / "broken").touch()
    with pytest.raises(SpftError, match=r"could not load.*the weights are broken"):
        engine.load_weights(broken)


def test_a_model_that_is_not_there_is_an_error(python: Path, tmp_path: Path) -> None:
    with pytest.raises(SpftError, match=r"cannot open the model.*no model in"):
        VllmEngine(tmp_path / "nothing", python=python)


def test_without_vllm_the_error_says_what_to_install(model: Path, tmp_path: Path) -> None:
    for options in ({}, {"in_process": True}, {"python": Path(sys.executable)}):
        with pytest.raises(SpftError, match="pip install vllm"):
            VllmEngine(model, **options)
    with pytest.raises(SpftError, match=r"cannot be run.*pip install vllm"):
        VllmEngine(model, python=tmp_path / "no-python")


def test_closing_leaves_no_process_and_no_file(python: Path, model: Path) -> None:
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    before = set(temporary.glob("vllm-*.log"))
    engine = VllmEngine(model, python=python)
    found = pid(engine)
    assert alive(found)
    engine.close()
    engine.close()
    assert not alive(found)
    with pytest.raises(SpftError, match="was closed"):
        list(engine.generate([[3]], Sampling()))
    forgotten = VllmEngine(model, python=python)
    found = pid(forgotten)
    del forgotten
    gc.collect()
    assert not alive(found)
    assert set(temporary.glob("vllm-*.log")) <= before


def test_what_vllm_prints_goes_to_the_log(python: Path, model: Path, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    with VllmEngine(model, python=python, log=log) as engine:
        list(engine.generate([[fake.PRINTS, 3]], Sampling(max_new_tokens=2)))
    assert log.read_text() == "not for the protocol\n" * 2
