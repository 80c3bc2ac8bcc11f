"""Groups in rows: each token where it belongs, and the same log-probs and gradients as alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import CPU
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from spftcore.errors import SpftError
from spftcore.losses import LossConfig
from spftcore.models import LanguageModel
from spftcore.training.attention import Attention, completion_logprobs
from spftcore.training.groups import Group, TokenSequence
from spftcore.training.objectives import Preference, PreferenceGroup, PreferencePair
from spftcore.training.packing import RowCost, assign, choose_rows, pack

# -- rows ---------------------------------------------------------------------------------------

TWO = Group((1, 2, 3), ((4, 5), (6,)))
ONE = Group((7,), ((8, 9),))


def test_a_row_by_hand() -> None:
    batch = pack([TWO, ONE], [[0, 1]], 0, CPU, multiple=4)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]]
    # Both completions go on from position 3, where the prompt ends.
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 0, 0, 0]]
    assert batch.group.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1, -1, -1, -1]]
    assert batch.branch.tolist() == [[0, 0, 0, 1, 1, 2, 0, 1, 1, 0, 0, 0]]
    # The prompt's last token (at 2) predicts the first token of both completions.
    assert batch.positions.tolist() == [2, 3, 2, 6, 7]
    assert batch.targets.tolist() == [4, 5, 6, 8, 9]
    assert batch.cu_seqlens.tolist() == [0, 2, 3, 5]
    assert not batch.causal


def test_completions_keep_the_order_of_the_groups_wherever_these_stand() -> None:
    batch = pack([TWO, ONE], [[1], [0]], 0, CPU)
    assert batch.input_ids.tolist() == [[7, 8, 9, 0, 0, 0], [1, 2, 3, 4, 5, 6]]
    assert batch.positions.tolist() == [8, 9, 8, 0, 1]
    assert batch.targets.tolist() == [4, 5, 6, 8, 9]


def test_one_sequence_a_row_is_causal() -> None:
    batch = pack([ONE, *TWO.separate()], [[0], [1], [2]], 0, CPU)
    assert batch.causal
    assert batch.input_ids.tolist() == [[7, 8, 9, 0, 0], [1, 2, 3, 4, 5], [1, 2, 3, 6, 0]]


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), capacity=st.integers(60, 300))
@hypothesis_settings(max_examples=80, deadline=None)
def test_rows_hold_every_item_once_and_keep_the_capacity(lengths: list[int], capacity: int) -> None:
    rows = assign(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in rows)
    # First-fit decreasing needs at most 11/9 of the fewest rows and one more (Dósa 2007: 6/9).
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // capacity) * 2 + 1
    assert rows == assign(lengths, capacity)


def test_rows_are_levelled() -> None:
    # First fit alone fills 10 and leaves 2: [6, 4], [2]; level it is [6], [4, 2].
    assert assign([6, 4, 2], 10) == [[0], [1, 2]]


def test_rows_follow_what_they_cost() -> None:
    group = Group((1,) * 60, ((2,) * 10, (3,) * 10))
    short = Group((1,) * 5, ((2,) * 5, (3,) * 10))
    cheap, dear = RowCost(1.0, 0.0), RowCost(1.0, 1 / 80)
    # Attention dear: pairs of one length stand alone, since their rows would see only masks.
    assert choose_rows([group] * 4, dear, 4096) == [[0], [1], [2], [3]]
    # One long and four short: alone, four rows would be padding for the most part.
    assert sorted(map(sorted, choose_rows([group, *[short] * 4], dear, 4096))) == [
        [0],
        [1, 2, 3, 4],
    ]
    # Attention free: whatever wastes no padding.
    rows = choose_rows([group, short, short], cheap, 4096)
    assert (
        cheap.rows(len(rows), max(sum([80, 20, 20][i] for i in row) for row in rows), causal=False)
        == 120
    )


def test_an_empty_prompt_or_completion_is_an_error() -> None:
    # No hidden state comes before the first completion token.
    with pytest.raises(SpftError, match="prompt"):
        Group((), ((3, 4),))
    for completions in ((), ((3,), ())):
        with pytest.raises(SpftError, match="completion"):
            Group((1,), completions)


# -- agreement with one by one ------------------------------------------------------------------

WINDOW = 6  # tokens; the groups below are longer
SIZES: dict[str, Any] = {
    "vocab_size": 123,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SLIDING = {"sliding_window": WINDOW}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-NeoX": ("GPTNeoX", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "Llama": ("Llama", SIZES),
    "DeepSeek-Coder": (
        "Llama",
        SIZES
        | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100_000.0}},
    ),
    "Qwen2": ("Qwen2", SIZES),
    "Qwen2, windows in some layers": (
        "Qwen2",
        SIZES | SLIDING | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "Qwen3": ("Qwen3", SIZES | {"head_dim": 8}),
    "Mistral": ("Mistral", SIZES | SLIDING),
    "Mixtral": ("Mixtral", SIZES | SLIDING | {"num_local_experts": 2}),
    "Phi-3": ("Phi3", SIZES | SLIDING),
    "Starcoder2": ("Starcoder2", SIZES | SLIDING),
    "Gemma 2": (
        "Gemma2",
        SIZES
        | SLIDING
        | {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    ),
    "Gemma 3": (
        "Gemma3Text",
        SIZES | SLIDING | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    ),
}


class Tokenizer:
    pad_token_id = 0
    all_special_ids = (0, 1)


def random_model(name: str) -> LanguageModel:
    import transformers

    prefix, sizes = MODELS[name]
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    torch.manual_seed(5)
    causal = prefix.removesuffix("Text")
    model = getattr(transformers, f"{causal}ForCausalLM")(config)
    with torch.no_grad():  # far from uniform, so that a token too many in a mask shows
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return LanguageModel(model.eval(), Tokenizer())


def random_groups(completions: tuple[int, ...], seed: int = 3) -> list[Group]:
    """One group per number of completions, of random tokens and lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(2, 123, (length,), generator=generator).tolist())

    return [Group(draw(1, 30), tuple(draw(1, 14) for _ in range(k))) for k in completions]


def alone(model: LanguageModel, groups: list[Group]) -> torch.Tensor:
    """Log-probs of all completions from the model's own logits, each sequence alone, no padding."""
    values = []
    for group in groups:
        for completion in group.completions:
            ids = [*group.prompt, *completion]
            scores = model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            values += [scores[i - 1, ids[i]] for i in range(len(group.prompt), len(ids))]
    return torch.stack(values)


def gradients(model: LanguageModel, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    model.model.zero_grad()
    weights = torch.sin(torch.arange(len(logprobs), dtype=logprobs.dtype))  # all tokens differ
    (logprobs * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backend", ["parts", "sdpa", "plain"])
@pytest.mark.parametrize("name", list(MODELS))
def test_logprobs_and_gradients_are_those_of_each_sequence_alone(name: str, backend: Any) -> None:
    model = random_model(name)
    if name == "Gemma 2":
        if backend == "parts":
            pytest.skip("SDPA cannot cap scores")
        model.model.set_attn_implementation("eager")  # SDPA cannot cap scores
    groups = random_groups((2, 1, 5, 2, 3))
    free = RowCost(1.0, 1.0)  # no call costs anything: parts wherever they may be
    attention = Attention(backend, free)
    batch = attention.pack(model, groups)
    assert bool(batch.spans) == (backend == "parts")
    with attention.on(model):
        logprobs = completion_logprobs(model, batch, attention)
    assert logprobs.dtype == torch.float32
    expected = alone(model, groups)
    assert expected.std() > 0.5
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=1e-5)
    ours, theirs = gradients(model, logprobs), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    for parameter, gradient in theirs.items():
        scale = float(gradient.abs().max()) + 1e-3
        torch.testing.assert_close(
            ours[parameter] / scale, gradient / scale, atol=1e-4, rtol=1e-4, msg=parameter
        )


# -- several answers to one prompt --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["spft", "dpo"])
def test_a_gold_with_three_answers_is_the_sum_of_its_three_pairs(kind: Any) -> None:
    model = random_model("Llama")
    (first, second) = random_groups((4, 2))
    rewards = {4: (1.0, 0.0, 1.0), 2: (1.0,)}
    grouped, pairs = [], []
    for group in (first, second):
        count = len(group.completions)
        references = tuple(
            torch.full((len(c),), -float(n)) for n, c in enumerate(group.completions)
        )
        grouped.append(PreferenceGroup(group, references, rewards[count]))
        gold, *answers = (TokenSequence(group.prompt, c) for c in group.completions)
        pairs += [
            PreferencePair(gold, answer, references[0], reference, reward)
            for answer, reference, reward in zip(
                answers, references[1:], rewards[count], strict=True
            )
        ]
    objective = Preference(LossConfig(kind, 0.01))
    together, counted = objective.losses(model, grouped)
    apart, expected = objective.losses(model, pairs)
    assert float(together.detach()) == pytest.approx(float(apart.detach()), rel=1e-5)
    assert counted == pytest.approx(expected, rel=1e-4)
    assert objective.normaliser(grouped) == objective.normaliser(pairs)
    # Prompt and gold are counted once.
    assert objective.tokens(grouped[0]) == len(first)


def test_a_group_without_a_reference_for_each_completion_is_an_error() -> None:
    with pytest.raises(SpftError, match="2 references and 1 rewards, not 1 and 1"):
        PreferenceGroup(Group((1,), ((2,), (3,))), (torch.zeros(1),), (1.0,))


def test_a_pair_with_two_prompts_is_an_error() -> None:
    pair = PreferencePair(
        TokenSequence((1,), (2,)), TokenSequence((3,), (2,)), torch.zeros(1), torch.zeros(1), 1.0
    )
    with pytest.raises(SpftError, match="different prompts"):
        _ = pair.group
