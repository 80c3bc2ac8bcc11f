"""The forecast counts the memory that a step really holds, and refuses what cannot fit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, corpus, tiny_settings
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spftcore import memory, models
from spftcore.config import Config, resolve
from spftcore.errors import SpftError
from spftcore.forecast import require_memory
from spftcore.memory import GIB, Need, blueprint, generation_need, largest_pass, training_need
from spftcore.models import LanguageModel, build_tiny
from spftcore.train import main
from spftcore.training.attention import Attention, completion_logprobs, row_cost
from spftcore.training.groups import Group

# How far the estimate may be from the bytes counted in a real step.
TOO_LOW, TOO_HIGH = 0.95, 1.35

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4},
    "Llama": {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2},
}


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are alive after every operation, and keeps the largest sum."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        self._held[reference.cdata] = reference, storage.nbytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        self._held = {k: v for k, v in self._held.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(count for _, count in self._held.values()))
        return out


def architecture(name: str, tokenizer: Any) -> Any:
    import transformers

    return getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPES[name],
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tiny(tiny_settings(), corpus(), seed=1).tokenizer


def groups_of(prompt: int, completion: int, count: int) -> list[Group]:
    return [Group((3,) * prompt, ((5,) * completion, (6,) * completion)) for _ in range(count)]


def settings(**sections: dict[str, Any]) -> Config:
    return resolve([("test", sections)])


def real(name: str, tokenizer: Any, config: Config, folder: Path) -> LanguageModel:
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(architecture(name, tokenizer))
    models.save(LanguageModel(model, tokenizer), folder)
    return models.load(folder, config, device=CPU, new_adapter=True)


def counted(model: LanguageModel, groups: list[Group], config: Config) -> int:
    """Bytes at the peak of two optimizer steps (the first one makes the optimizer's state)."""
    attention = Attention("sdpa", row_cost(model))
    model.model.train()
    if config.training.gradient_checkpointing:
        model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    casting = torch.autocast("cpu", torch.bfloat16, enabled=config.training.precision == "bfloat16")
    with LiveBytes([*model.model.parameters(), *model.model.buffers()]) as live:
        for _ in range(2):
            optimizer.zero_grad()
            batch = attention.pack(model, groups)
            with casting:
                logprobs = completion_logprobs(model, batch, attention)
            (-logprobs.sum()).backward()
            optimizer.step()
            del logprobs
    return live.peak


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("Qwen2", {}),
        ("Llama", {}),
        ("Qwen2", {"lora": {"rank": 4}}),
        ("Llama", {"lora": {"rank": 4}, "model": {"dtype": "bfloat16"}}),
        ("Qwen2", {"training": {"gradient_checkpointing": True}}),
        ("Llama", {"training": {"gradient_checkpointing": True}}),
        ("Qwen2", {"training": {"precision": "bfloat16"}}),
        ("Llama", {"model": {"dtype": "bfloat16"}}),
    ],
)
def test_the_estimate_of_a_step_is_near_the_bytes_a_real_step_holds(
    name: str, sections: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    config = settings(**sections)
    groups = groups_of(150, 20, 6)
    plan = blueprint(architecture(name, tokenizer), tokenizer, config, adapted=True)
    need = training_need(plan, groups, config.training)
    held = counted(real(name, tokenizer, config, tmp_path / "model"), groups, config)
    assert TOO_LOW * held <= need.total <= TOO_HIGH * held, (str(need), memory.size(held))


def test_what_does_not_depend_on_the_batch_is_exact(tokenizer: Any, tmp_path: Path) -> None:
    for sections in ({}, {"lora": {"rank": 4}}):
        config = settings(**sections)
        model = real("Qwen2", tokenizer, config, tmp_path / "model").model
        plan = blueprint(architecture("Qwen2", tokenizer), tokenizer, config, adapted=True)
        need = training_need(plan, groups_of(20, 5, 2), config.training)
        everything = [*model.parameters(), *model.buffers()]
        trained = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert need.weights == sum(t.numel() * t.element_size() for t in everything)
        assert (need.gradients, need.optimizer) == (trained, 2 * trained)


def test_a_tied_head_is_counted_once(tokenizer: Any) -> None:
    shape = architecture("Qwen2", tokenizer)
    shape.tie_word_embeddings = True
    tied, untied = (
        training_need(
            blueprint(one, tokenizer, Config(), adapted=True),
            groups_of(20, 5, 1),
            Config().training,
        ).weights
        for one in (shape, architecture("Qwen2", tokenizer))
    )
    assert untied - tied == 4 * len(tokenizer) * shape.hidden_size


def test_the_blueprint_of_a_large_model_holds_no_memory(tokenizer: Any) -> None:
    shape = architecture("Qwen2", tokenizer)
    shape.hidden_size, shape.intermediate_size, shape.vocab_size = 8192, 49_152, 152_064
    plan = blueprint(shape, tokenizer, Config(), adapted=True)
    tensors = [*plan.model.model.parameters(), *plan.model.model.buffers()]
    assert all(isinstance(tensor, FakeTensor) for tensor in tensors)
    need = training_need(plan, groups_of(300, 20, 2), Config().training)
    assert need.total > 16 * plan.model.parameters() > 60 * GIB  # 4 B, 4 B and twice 4 B each


def test_the_cache_of_generation_is_what_the_model_keeps(tokenizer: Any, tmp_path: Path) -> None:
    config = settings(generation={"batch_size": 3}, prompt={"max_completion_tokens": 6})
    model = real("Qwen2", tokenizer, config, tmp_path / "model")
    ids = torch.full((3, 10 + 6), 5)
    with torch.no_grad():
        kept = model.model(ids, use_cache=True).past_key_values
    cache = sum(4 * (layer.keys.numel() + layer.values.numel()) for layer in kept.layers)
    plan = blueprint(architecture("Qwen2", tokenizer), tokenizer, config, adapted=True)
    need = generation_need(plan, 10, config)
    # 4 layers x keys and values x 2 heads of 16 x 4 bytes x 3 rows x 16 tokens
    assert cache == 4 * 2 * 2 * 16 * 4 * 3 * 16
    longer = generation_need(plan, 11, config)
    reading = 3 * (4 * 64 + 3 * 176) * 4  # what one more prompt token takes while it is read
    assert longer.cache - need.cache == cache // 16 + reading
    assert need.cache > cache


def test_a_longer_completion_limit_makes_the_cache_larger_by_its_tokens(tokenizer: Any) -> None:
    plan = blueprint(architecture("Llama", tokenizer), tokenizer, Config(), adapted=True)
    needs = [
        generation_need(plan, 50, settings(prompt={"max_completion_tokens": limit})).cache
        for limit in (100, 200)
    ]
    assert needs[1] - needs[0] == 100 * 2 * 2 * 2 * 24 * 4 * 32  # kv, layers, heads, width, rows


def test_the_largest_pass_is_of_the_longest_groups_within_the_budget() -> None:
    groups = [*groups_of(10, 1, 5), *groups_of(100, 10, 3)]
    assert [len(g) for g in largest_pass(groups, 4, 10_000)] == [12, 120, 120, 120]
    assert [len(g) for g in largest_pass(groups, 4, 250)] == [120, 120]
    assert [len(g) for g in largest_pass(groups, 2, 5)] == [120]  # longer than the budget
    assert len(largest_pass(groups_of(10, 1, 2), 8, 10_000)) == 8  # pairs come again in a batch


# -- refusing --------------------------------------------------------------------------------------


def applied(config: Config, message: str) -> list[Config]:
    """The settings that a message proposes, one alone or all together."""
    found = re.findall(r"(\w+)\.(\w+)=(\w+)", message)
    assert found, message
    values: dict[str, dict[str, str]] = {}
    for section, name, value in found:
        values.setdefault(section, {})[name] = value
    base = ("config", config.model_dump())
    if " or with " in message or len(found) == 1:
        return [resolve([base, ("change", {s: {n: v}})]) for s, n, v in found]
    return [resolve([base, ("change", values)])]  # type: ignore[list-item]


def test_what_cannot_fit_is_refused_with_settings_that_fit(tokenizer: Any) -> None:
    shape = architecture("Qwen2", tokenizer)
    config = settings(
        model={"name_or_path": "some/model"},
        training={"tokens_per_pass": 1024},
        self_play={"batch_size": 6},
        generation={"batch_size": 2},
        prompt={"max_completion_tokens": 8},
    )
    groups = groups_of(150, 20, 6)

    def check(one: Config, free: int) -> list[str]:
        return memory.check(shape, tokenizer, one, groups, free, "on cpu")

    plan = blueprint(shape, tokenizer, config, adapted=True)
    part = largest_pass(groups, 6, 1024)
    need = training_need(plan, part, config.training).total
    enough = int(need / memory.USABLE) + 1
    assert check(config, enough)[0].startswith("A training step needs about")
    for share in (0.95, 0.4):
        with pytest.raises(SpftError, match="A training step needs about") as refused:
            check(config, int(share * enough))
        assert "free on cpu" in str(refused.value)
        for proposed in applied(config, str(refused.value).partition("fits with")[2]):
            check(proposed, int(share * enough))
    with pytest.raises(SpftError, match="smaller model"):
        check(config, 100_000)


def test_what_processes_share_out_is_counted_once(tokenizer: Any) -> None:
    # Training in shards fits where a whole copy does not; each still answers with a whole one.
    shape = architecture("Qwen2", tokenizer)
    config = settings(
        model={"name_or_path": "some/model"},
        lora={"rank": 0},
        generation={"batch_size": 1},
        prompt={"max_completion_tokens": 8},
    )
    groups = groups_of(20, 10, 2)
    plan = blueprint(shape, tokenizer, config, adapted=True)
    part = largest_pass(groups, config.self_play.batch_size, config.training.tokens_per_pass)
    need = training_need(plan, part, config.training)
    held = need.weights + need.gradients + need.optimizer
    free = int((need.total - held // 2) / memory.USABLE) + 10
    with pytest.raises(SpftError, match="A training step needs"):
        memory.check(shape, tokenizer, config, groups, free, "on cpu")
    assert memory.check(shape, tokenizer, config, groups, free, "on cpu", 2)


def test_generation_that_cannot_fit_is_refused(tokenizer: Any) -> None:
    config = settings(generation={"batch_size": 4096}, prompt={"max_completion_tokens": 2000})
    shape = architecture("Llama", tokenizer)
    with pytest.raises(SpftError, match=r"Generation needs about .*generation\.batch_size=512"):
        memory.check(shape, tokenizer, config, groups_of(20, 5, 2), 2 * GIB, "on cpu")


def test_a_dry_run_prints_what_is_needed_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available", lambda _: 1_000_000)
    assert main(["--dry-run", f"--run.directory={tmp_path}", "--run.workers=1"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "A training step needs about" in message
    assert "976.6 KiB are free on cpu" in message
    assert not list(tmp_path.iterdir())


def test_a_run_can_ask_before_it_starts(qwen2_folder: Path, travel: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"database": "travel", "question": "Q?", "sql": "select 1"}\n')
    config = settings(
        data={"databases": str(travel), "pairs": str(pairs)},
        model={"name_or_path": str(qwen2_folder)},
        lora={"rank": 4},
        run={"name": "x", "directory": str(tmp_path / "runs")},
    )
    training, generation = require_memory(config)
    assert training.startswith("A training step needs about")
    assert generation.startswith("Generation needs about")
    assert not (tmp_path / "runs").exists()


# -- what is free ----------------------------------------------------------------------------------


def test_a_control_groups_limit_counts_without_the_page_cache(tmp_path: Path) -> None:
    for name, text in (
        ("memory.max", "1000000\n"),
        ("memory.current", "700000\n"),
        ("memory.stat", "anon 400000\ninactive_file 300000\nactive_file 0\n"),
    ):
        (tmp_path / name).write_text(text)
    assert list(memory._free_of_groups(tmp_path)) == [600_000]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(memory._free_of_groups(tmp_path)) == []
    old = tmp_path / "memory"
    old.mkdir()
    for name, text in (
        ("memory.limit_in_bytes", "500"),
        ("memory.usage_in_bytes", "800"),
        ("memory.stat", "total_inactive_file 100\n"),
    ):
        (old / name).write_text(text)
    assert list(memory._free_of_groups(tmp_path)) == [0]


def test_the_machines_free_memory_is_read(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 16 kB\nMemFree: 2 kB\nMemAvailable:       8 kB\n")
    assert memory._free_of_machine(path) == 8192
    assert memory._free_of_machine(tmp_path / "missing") is None
    assert memory.available(CPU) > 0


def test_a_need_is_told_in_parts() -> None:
    need = Need(weights=3 * GIB, gradients=512 * 1024**2)
    assert str(need) == "3.5 GiB (weights 3.0 GiB, gradients 512.0 MiB)"
