"""What a packed token sees, in every form a back end takes it; and the check before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import CPU
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_packing import Tokenizer, alone, random_groups, random_model

from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.training import self_check
from spftcore.training.attention import Attention, completion_logprobs, row_cost
from spftcore.training.groups import Group
from spftcore.training.masks import (
    Reach,
    additive_mask,
    block_mask,
    boolean_mask,
    mask_mod,
    reaches,
)
from spftcore.training.packing import PackedBatch, RowCost, assign, pack
from spftcore.training.self_check import choose, measure, sample_group
from spftcore.training.varlen import sequence_borders

# A prompt of three tokens with completions of two and one; then a prompt of one, one completion of
# one; then padding.
ROW = [Group((1, 2, 3), ((4, 5), (6,))), Group((7,), ((8,),))]


def row() -> PackedBatch:
    return pack(ROW, [[0, 1]], 0, CPU, multiple=9)


def drawn(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in line) for line in mask[0, 0].tolist()]


def test_completions_see_their_prompt_and_themselves() -> None:
    assert drawn(boolean_mask(row(), Reach())) == [
        "x........",
        "xx.......",
        "xxx......",
        "xxxx.....",  # first completion
        "xxxxx....",
        "xxx..x...",  # second completion: the prompt, not the first
        "......x..",  # another group
        "......xx.",
        "........x",  # padding sees itself: a row of the mask without any key gives NaN
    ]


def test_a_window_counts_positions_and_not_places_in_the_row() -> None:
    # The second completion's token has position 3 like the first one's first token, and with a
    # window of 3 sees positions 1 and 2, although it stands at place 5.
    assert drawn(boolean_mask(row(), Reach(window=3))) == [
        "x........",
        "xx.......",
        "xxx......",
        ".xxx.....",
        "..xxx....",
        ".xx..x...",
        "......x..",
        "......xx.",
        "........x",
    ]


def test_a_chunk_begins_anew_at_its_border() -> None:
    assert drawn(boolean_mask(row(), Reach(chunk=2)))[2:6] == [
        "..x......",
        "..xx.....",  # position 3 is in the chunk of position 2
        "....x....",  # position 4 begins a chunk
        "..x..x...",
    ]


def batches() -> st.SearchStrategy[PackedBatch]:
    def build(numbers: list[int], seed: int, capacity: int) -> PackedBatch:
        groups = random_groups(tuple(numbers), seed)
        return pack(groups, assign([len(g) for g in groups], capacity), 0, CPU)

    return st.builds(
        build,
        st.lists(st.integers(1, 4), min_size=1, max_size=5),
        st.integers(0, 99),
        st.integers(20, 120),
    )


REACHES = st.builds(Reach, st.none() | st.integers(1, 9)) | st.builds(
    Reach, st.none(), st.integers(1, 9)
)


@given(batch=batches(), reach=REACHES)
@hypothesis_settings(max_examples=40, deadline=None)
def test_the_rule_for_flex_attention_is_the_boolean_mask(batch: PackedBatch, reach: Reach) -> None:
    rows, length = batch.group.shape
    index = torch.meshgrid(
        torch.arange(rows), torch.arange(length), torch.arange(length), indexing="ij"
    )
    sees = mask_mod(batch, reach)(index[0], torch.tensor(0), index[1], index[2])
    assert torch.equal(sees, boolean_mask(batch, reach)[:, 0])


def test_a_block_mask_skips_blocks_between_groups() -> None:
    # Two groups of 128 tokens, one block each: of four blocks, the two on the diagonal stay.
    groups = [Group((5,) * 100, ((6,) * 20, (7,) * 8))] * 2
    mask = block_mask(pack(groups, [[0, 1]], 0, CPU, multiple=128), Reach())
    assert mask.to_dense()[0, 0].tolist() == [[1, 0], [0, 1]]


def test_flex_attention_with_the_block_mask_is_attention_with_the_boolean_mask() -> None:
    # The forward pass alone: on the CPU there is no other.
    from torch.nn.attention.flex_attention import flex_attention

    batch = pack(random_groups((2, 1, 3)), [[0, 1, 2]], 0, CPU, multiple=128)
    length = batch.group.shape[1]
    query, key, value = torch.randn(3, 1, 2, length, 16, generator=torch.Generator().manual_seed(1))
    reach = Reach(window=5)
    ours = flex_attention(query, key, value, block_mask=block_mask(batch, reach))
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=boolean_mask(batch, reach)
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_an_additive_mask_hides_what_the_boolean_one_does() -> None:
    seen = boolean_mask(row(), Reach())
    hidden = additive_mask(seen, torch.float32)
    assert torch.equal(hidden == 0, seen)
    assert torch.equal((torch.zeros(9) + hidden).softmax(-1) > 0, seen)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama", Reach()),
        ("Mistral", Reach(window=6)),
        ("Qwen2", Reach()),
        (
            "Gemma 3",
            {"full_attention": Reach(), "sliding_attention": Reach(window=6)},
        ),
    ],
)
def test_how_far_layers_see_is_read_from_the_configuration(name: str, expected: Any) -> None:
    assert reaches(random_model(name).model.config) == expected


def test_recurrent_layers_cannot_share_a_prompt() -> None:
    import transformers

    config = transformers.Qwen3NextConfig(num_hidden_layers=4)
    assert reaches(config) is None


# -- variable length ----------------------------------------------------------------------------


def test_variable_length_attention_gets_borders_windows_and_grouped_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # PyTorch's kernel needs a GPU; a stand-in computes what its documentation says it does.
    seen: dict[str, Any] = {}

    def stand_in(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, **kw: Any):  # type: ignore[no-untyped-def]
        seen.update(kw, borders=cu_q.tolist(), longest=max_q)
        out = torch.empty_like(q)
        repeat = q.shape[1] // k.shape[1]
        for start, end in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
            place = torch.arange(end - start)
            distance = place[:, None] - place
            mask = (distance >= 0) & (distance <= kw["window_size"][0])
            one = [x[start:end].transpose(0, 1)[None] for x in (q, k, v)]
            one[1:] = [x.repeat_interleave(repeat, dim=1) for x in one[1:]]
            attended = torch.nn.functional.scaled_dot_product_attention(*one, attn_mask=mask)
            out[start:end] = attended[0].transpose(0, 1)
        return out

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_in)
    model = random_model("Mistral")
    groups = random_groups((2, 1, 1))
    attention = Attention("varlen", row_cost(model))
    with attention.on(model):
        batch = attention.pack(model, groups)
        logprobs = completion_logprobs(model, batch, attention)
    assert seen["window_size"] == (5, 0)  # five tokens back and the token itself
    assert seen["enable_gqa"]
    lengths = [len(part) for group in groups for part in group.separate()]
    assert seen["borders"] == [sum(lengths[:i]) for i in range(5)]
    assert seen["longest"] == max(lengths)
    torch.testing.assert_close(logprobs.double(), alone(model, groups), atol=1e-5, rtol=1e-5)
    assert sequence_borders(batch)["cu_seq_lens_k"].dtype == torch.int32


# -- the check before training ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["GPT-NeoX", "Mistral", "Gemma 3", "Qwen2, windows in some layers"]
)
def test_a_model_that_passes_shares_prompts(name: str) -> None:
    said: list[str] = []
    model = random_model(name)
    assert choose(model, report=said.append).backend == "parts"
    assert len(said) == 1
    assert "agree" in said[0]
    assert model.model.config._attn_implementation == "sdpa"  # switched only while it trains


def test_the_checked_group_is_longer_than_the_window_where_that_is_cheap() -> None:
    model = random_model("Mistral")
    for window, tokens in ((6, 74), (300, 354), (4096, 74)):
        model.model.config.sliding_window = window
        model.model.config.max_position_embeddings = 8192
        assert len(sample_group(model)) == tokens


@pytest.mark.parametrize("backend", ["parts", "sdpa"])
def test_a_forgotten_window_is_found(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("Mistral")
    attention = Attention(backend, row_cost(model))
    right, allowed = measure(model, attention)
    assert right < allowed < 1e-3
    for module in ("attention", "masks"):
        monkeypatch.setattr(f"spftcore.training.{module}.reaches", lambda _: Reach())
    wrong, allowed = measure(model, attention)
    assert wrong > 100 * allowed


def test_a_mask_that_lets_completions_see_each_other_means_plain_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "spftcore.training.attention.boolean_mask",
        lambda batch, _: (
            torch.ones(batch.group.shape[1], batch.group.shape[1]).tril().bool()[None, None]
        ),
    )
    model = random_model("Llama")
    said: list[str] = []
    assert choose(model, "sdpa", report=said.append).backend == "plain"
    (line,) = said
    assert "plain sequences" in line
    assert "sdpa differs from separate sequences by" in line


def test_recurrent_models_train_on_plain_sequences() -> None:
    import transformers

    config = transformers.FalconMambaConfig(
        vocab_size=123, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    torch.manual_seed(2)
    model = LanguageModel(transformers.FalconMambaForCausalLM(config).eval(), Tokenizer())
    said: list[str] = []
    assert choose(model, report=said.append).backend == "plain"
    assert len(said) == 1


def test_a_capped_model_runs_with_attention_that_caps() -> None:
    # SDPA drops the cap silently; it was made with SDPA, as `transformers` does by default.
    model = random_model("Gemma 2")
    assert model.model.config._attn_implementation == "sdpa"
    assert choose(model).backend == "sdpa"
    assert model.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("setting", ["flex", "varlen"])
def test_what_needs_a_gpu_says_so(setting: Any) -> None:
    with pytest.raises(SpftError, match="needs a GPU"):
        choose(random_model("Llama"), setting)


def test_plain_is_taken_as_set() -> None:
    assert choose(random_model("Llama"), "plain").backend == "plain"


def test_rows_for_another_attention_than_the_models_are_an_error() -> None:
    model = random_model("Llama")
    attention = Attention("parts", row_cost(model))
    batch = attention.pack(model, random_groups((2,)))
    with pytest.raises(SpftError, match=r"attention\.on"):
        completion_logprobs(model, batch, attention)


def test_parts_go_through_gradient_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = random_model("Gemma 3")
        if checkpointing:
            model.model.gradient_checkpointing_enable()
        model.model.train()
        attention = Attention("parts", row_cost(model))
        with attention.on(model):
            batch = attention.pack(model, random_groups((2, 3)))
            completion_logprobs(model, batch, attention).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_last_layers_mlp_sees_only_what_predicts_a_completion() -> None:
    model = random_model("Llama")
    attention = Attention("parts", RowCost(1.0, 1.0))
    groups = random_groups((2, 3))
    seen: list[int] = []
    hooks = [
        layer.mlp.gate_proj.register_forward_hook(
            lambda _, given, __: seen.append(given[0].shape[1])
        )
        for layer in model.causal_lm.base_model.layers
    ]
    with attention.on(model):
        batch = attention.pack(model, groups)
        completion_logprobs(model, batch, attention)
    after = len(seen)
    model.causal_lm(batch.input_ids)
    for hook in hooks:
        hook.remove()
    whole = sum(map(len, groups))
    # The last prompt token predicts the first token of every completion.
    predicting = sum(1 + sum(len(c) - 1 for c in g.completions) for g in groups)
    assert seen[:after] == [whole] * (after - 1) + [predicting]
    assert seen[after:] == [whole] * after


def test_the_log_is_told_once_and_warned_when_packing_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(self_check, "_said", set())
    model = random_model("Llama")
    with caplog.at_level("INFO"):
        for _ in range(2):
            choose(model)
        monkeypatch.setattr(self_check, "measure", lambda *_: (0.5, 1e-4))
        for _ in range(2):
            choose(model)
    agreed, failed = caplog.records
    assert (agreed.levelname, failed.levelname) == ("INFO", "WARNING")
    assert "5.0e-01 in a log-prob" in failed.message
