"""`SelfPlayLoss`: agrees with the model's own logits, owns nothing, refuses what it cannot read."""

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from spftcore.errors import SpftError
from spftcore.losses import LossConfig
from spftcore.self_play_loss import IGNORED, SelfPlayLoss, logit_scaling

EXAMPLE = Path(__file__).parents[1] / "examples" / "ordinary_training_loop.py"
LAM = 0.3
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Configuration and what its model does to the logits.
FAMILIES = {
    "LlamaConfig": {},
    "Gemma2Config": {"final_logit_softcapping": 2.0},
    "CohereConfig": {"logit_scale": 0.25},
    "GraniteConfig": {"logits_scaling": 4.0},
    "HyperCLOVAXConfig": {"logits_scaling": 3.0},
    "MiniCPM3Config": {"dim_model_base": 4},
    "PhiConfig": {},  # its head has a bias
    "GPTNeoXConfig": {"tie_word_embeddings": True},
}


def tiny_llama(seed: int = 0, **changes) -> transformers.LlamaForCausalLM:
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SMALL | changes)))


def batch(pairs: int = 2, length: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and labels [2 pairs, T]: prompts of 2 tokens, completions of 1 to 4, then padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 40, (2 * pairs, length), generator=generator)
    labels = ids.clone()
    labels[:, :2] = IGNORED
    for row in range(2 * pairs):
        labels[row, 3 + row % 4 :] = IGNORED
    return ids, labels


def true_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over the completions by plain PyTorch in fp64, [S]."""
    every = torch.log_softmax(logits.double(), -1)[:, :-1]
    targets = labels[:, 1:]
    tokens = every.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return tokens.masked_fill(targets == IGNORED, 0).sum(1)


def true_loss(model, ids, labels, reference, reward) -> Tensor:
    """SPFT-SQL, eq. 3, from the model's own logits; golds first, then their answers."""
    gain = true_logprobs(model(input_ids=ids).logits, labels) - reference.double()
    golds, answers = gain.chunk(2)
    return torch.log1p(torch.exp(-LAM * (golds - reward * answers))).mean()


@pytest.fixture
def setting():
    """A model with sharp logits, its loss, a batch, opponents' log-probs and rewards."""
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    ids, labels = batch()
    reference = torch.linspace(-9, -4, 4)
    loss = SelfPlayLoss.for_model(model, LossConfig("spft", LAM))
    return model, loss, ids, labels, reference, torch.tensor([1.0, 0.25])


def states(model, ids) -> Tensor:
    return model.base_model(input_ids=ids).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_logits_of_each_family_of_models(family):
    settings = SMALL | FAMILIES[family]
    if family == "MiniCPM3Config":
        settings |= {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4}
        settings |= {"qk_nope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = getattr(transformers, family)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # random weights give logits near 0, where a cap or scale hides
        model.get_output_embeddings().weight.mul_(50)
        if model.get_output_embeddings().bias is not None:
            model.get_output_embeddings().bias.normal_()
    ids, labels = batch()
    loss = SelfPlayLoss.for_model(model)
    with torch.no_grad():
        truth = true_logprobs(model(input_ids=ids).logits, labels)
        ours = loss.sequence_logprobs(states(model, ids), labels)
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-4)
    assert truth.std() > 0.1


def test_scaling_of_models_too_large_to_build_here():
    class Config:
        model_type = "falcon_h1"
        lm_head_multiplier = 0.5

        def get_text_config(self):
            return self

    config = Config()
    assert logit_scaling(config) == (0.5, None)
    config.model_type, config.lm_head_multiplier = "muse_glimmer", None
    config.output_multiplier, config.final_logit_softcapping = 0.125, 30
    assert logit_scaling(config) == (0.125, 30.0)
    config.model_type, config.output_multiplier = "mpt", None
    config.logit_scale = "inv_sqrt_d_model"
    assert logit_scaling(config) == (1.0, 30.0)


def test_loss_and_every_gradient_agree_with_plain_pytorch(setting):
    model, loss, ids, labels, reference, reward = setting
    out = loss(states(model, ids), labels, reference, reward)
    out.loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    truth = true_loss(model, ids, labels, reference, reward)
    truth.backward()
    assert out.loss.item() == pytest.approx(truth.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_gradient_checkpointing_of_the_model_changes_no_gradient(setting):
    model, loss, ids, labels, reference, reward = setting
    model.train()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        loss(states(model, ids), labels, reference, reward).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(*both) for both in zip(*gradients, strict=True))


def test_packed_states_give_the_same_bits_as_padded_ones(setting):
    model, loss, ids, labels, reference, reward = setting
    hidden = states(model, ids).detach()
    rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
    borders = torch.tensor([0, 1, 3, 6, 10])
    padded = loss(hidden, labels, reference, reward)
    packed = loss(
        hidden[rows, columns - 1], labels[rows, columns], reference, reward, cu_seqlens=borders
    )
    assert torch.equal(padded.losses, packed.losses)


def test_reference_per_token_or_per_sequence(setting):
    model, loss, ids, labels, _, reward = setting
    hidden = states(model, ids).detach()
    tokens = -torch.rand(labels.shape)
    whole = tokens.masked_fill(labels == IGNORED, 0).sum(1)
    by_token, by_sequence = (loss(hidden, labels, given, reward) for given in (tokens, whole))
    torch.testing.assert_close(by_token.losses, by_sequence.losses)


def test_one_gold_meets_several_answers(setting):
    model, loss, ids, labels, reference, _ = setting
    hidden = states(model, ids).detach()
    out = loss(
        hidden,
        labels,
        reference,
        torch.ones(3),
        chosen=torch.zeros(3, dtype=torch.long),
        rejected=torch.tensor([1, 2, 3]),
    )
    gain = true_logprobs(model(input_ids=ids).logits.detach(), labels) - reference
    truth = torch.log1p(torch.exp(-LAM * (gain[0] - gain[1:])))
    torch.testing.assert_close(out.losses.double(), truth, rtol=1e-5, atol=1e-5)


def test_mean_is_over_the_weights_of_the_kept_pairs(setting):
    model, _, ids, labels, reference, _ = setting
    loss = SelfPlayLoss.for_model(model, LossConfig("exspin", LAM))
    hidden = states(model, ids).detach()
    verdicts = torch.tensor([True, False])  # the second answer is right: ExSPIN leaves it out
    out = loss(hidden, labels, reference, verdicts, weight=torch.tensor([0.25, 3.0]))
    assert out.kept.tolist() == [True, False]
    assert out.loss.item() == pytest.approx(out.losses[0].item() / 0.25)
    nothing = loss(hidden, labels, reference, torch.zeros(2))
    assert nothing.loss.item() == 0.0


def test_a_given_normaliser_makes_two_halves_equal_the_whole(setting):
    model, loss, ids, labels, reference, reward = setting
    hidden = states(model, ids).detach()
    whole = loss(hidden, labels, reference, reward).loss
    parts = [
        loss(hidden[rows], labels[rows], reference[rows], reward[pair], normaliser=2.0).loss
        for rows, pair in (([0, 2], [0]), ([1, 3], [1]))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_owns_no_parameter_and_leaves_the_head_where_it_is(setting):
    model, loss, *_ = setting
    assert loss.state_dict() == {}
    assert not list(loss.parameters())
    assert not list(loss.modules())[1:]
    loss.to(torch.float64)
    assert model.lm_head.weight.dtype == torch.float32
    holder = nn.ModuleDict({"model": model, "loss": loss})
    assert set(holder.state_dict()) == {f"model.{name}" for name in model.state_dict()}


def test_frozen_head_gets_no_gradient_and_the_body_the_same(setting):
    model, loss, ids, labels, reference, reward = setting
    gradients = []
    for frozen in (False, True):
        model.zero_grad()
        model.lm_head.requires_grad_(not frozen)
        loss(states(model, ids), labels, reference, reward).loss.backward()
        gradients.append(model.model.embed_tokens.weight.grad.clone())
    assert model.lm_head.weight.grad is None
    torch.testing.assert_close(*gradients)


def test_changes_of_the_heads_weight_are_seen(setting):
    model, loss, ids, labels, *_ = setting
    hidden = states(model, ids).detach()
    before = loss.sequence_logprobs(hidden, labels)
    model.lm_head.weight = nn.Parameter(torch.zeros(40, 16))
    uniform = loss.sequence_logprobs(hidden, labels)
    assert not torch.equal(before, uniform)
    lengths = (labels != IGNORED).sum(1)
    torch.testing.assert_close(uniform, -lengths * torch.log(torch.tensor(40.0)))


def test_modules_to_save_trains_the_copy_and_scores_with_the_original_when_disabled(setting):
    peft = pytest.importorskip("peft")
    model, _, ids, labels, reference, reward = setting
    original = model.lm_head.weight
    adapter = peft.LoraConfig(
        target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"
    )
    wrapped = peft.get_peft_model(model, adapter)
    loss = SelfPlayLoss.for_model(wrapped, LossConfig("spft", LAM))
    copy = model.lm_head.modules_to_save["default"].weight
    loss(states(model, ids), labels, reference, reward).loss.backward()
    assert copy.grad is not None
    assert original.grad is None
    with torch.no_grad():
        copy.zero_()
        hidden = states(model, ids)
        with wrapped.disable_adapter():
            ours = loss.sequence_logprobs(hidden, labels)
        truth = true_logprobs(hidden @ original.t(), labels)
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-4)


def test_an_adapter_on_the_head_is_refused():
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(tiny_llama(), adapter)
    with pytest.raises(SpftError, match=r"PEFT adapter.*modules_to_save"):
        SelfPlayLoss.for_model(wrapped)


def test_a_head_that_cannot_be_read_is_refused():
    quantised = nn.Linear(4, 8, bias=False)
    quantised.weight = nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(SpftError, match=r"quantised.*llm_int8_skip_modules"):
        SelfPlayLoss(quantised)
    foreign = type("Linear8bitLt", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    with pytest.raises(SpftError, match="quantised"):
        SelfPlayLoss(foreign(4, 8))
    with pytest.raises(SpftError, match="before DDP"):
        SelfPlayLoss.for_model(nn.Sequential(tiny_llama()))
    with pytest.raises(SpftError, match="AutoModelForCausalLM"):
        SelfPlayLoss.for_model(transformers.LlamaModel(transformers.LlamaConfig(**SMALL)))
    with pytest.raises(SpftError, match="The head is a Sequential"):
        SelfPlayLoss(nn.Sequential(nn.Linear(4, 8)))


def test_arguments_that_do_not_fit_are_refused(setting):
    model, loss, ids, labels, reference, reward = setting
    hidden = states(model, ids).detach()

    def refused(words, *arguments, **named):
        with pytest.raises(SpftError, match=words):
            loss(*arguments, **named)

    refused("labels has shape", hidden, labels[:, 1:], reference, reward)
    refused("no cu_seqlens", hidden[0], labels[0], reference, reward)
    refused("cu_seqlens belongs to packed", hidden, labels, reference, cu_seqlens=torch.arange(5))
    refused("3 sequences, which is no number of pairs", hidden[:3], labels[:3], reference[:3])
    refused("Only one of chosen", hidden, labels, reference, chosen=torch.tensor([0]))
    refused("reference has shape", hidden, labels, reference[:3], reward)
    refused("float64 but weight", hidden.double(), labels, reference, reward)
    refused(r"\[0, 1\]", hidden, labels, reference, 2 * reward)
    refused("outside the vocabulary", hidden, labels.where(labels < 0, 40), reference, reward)
    emptied = labels.clone()
    emptied[1] = IGNORED
    refused("Completion 1 is empty", hidden, emptied, reference, reward)
    refused("nothing predicts its first", hidden, ids, reference, reward)
    loss._head[0].weight = nn.Parameter(torch.empty(0))  # as DeepSpeed leaves it between uses
    refused("GatheredParameters", hidden, labels, reference, reward)


def test_a_nan_in_one_sequence_names_its_pair(setting):
    model, loss, ids, labels, reference, reward = setting
    hidden = states(model, ids).detach()
    hidden[1, 2] = float("nan")
    out = loss(hidden, labels, reference, reward)
    assert out.statistics.finite.tolist() == [True, False]


def test_the_example_runs_and_its_loss_falls(capsys):
    spec = importlib.util.spec_from_file_location("ordinary_training_loop", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    losses = example.main()
    assert losses[-1] < 0.1 * losses[0]
    assert "loss" in capsys.readouterr().out
