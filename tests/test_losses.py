"""The loss family: each kind's numbers worked by hand, the pairs it keeps, and its gradient."""

import math

import pytest
import torch

from spftcore.errors import SpftError
from spftcore.kernels import linear_logprobs
from spftcore.losses import LossConfig, completion_nll, preference_loss

# Completions: gold (2 tokens), a wrong answer (1), a right answer (3); pairs (gold, wrong) with
# R = 1 and (gold, right) with R = 0.
LOGPROBS = [-0.5, -0.5, -3.0, -0.25, -0.25, -0.5]
REFERENCE = [-1.0, -1.0, -2.5, -1.0, -0.5, -1.0]
BORDERS = torch.tensor([0, 2, 3, 6])
CHOSEN, REJECTED = torch.tensor([0, 0]), torch.tensor([1, 2])
REWARD = torch.tensor([1.0, 0.0])
LAM = 0.5
# Gains: gold -1 + 2 = 1; wrong -3 + 2.5 = -0.5; right -1 + 2.5 = 1.5.
AGAINST_WRONG = LAM * (1 + 0.5)
AGAINST_RIGHT = LAM * (1 - 1.5)
AGAINST_NOTHING = LAM * 1


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("kind", "margins", "scales", "kept"),
    [
        ("spft", [AGAINST_WRONG, AGAINST_NOTHING], [1, 0], [True, True]),
        ("spin", [AGAINST_WRONG, AGAINST_RIGHT], [1, 1], [True, True]),
        ("exspin", [AGAINST_WRONG, AGAINST_RIGHT], [1, 1], [True, False]),
        ("dpo", [AGAINST_WRONG, AGAINST_RIGHT], [1, 1], [True, False]),
    ],
)
def test_loss_and_gradient_by_hand(kind, margins, scales, kept):
    logprobs = torch.tensor(LOGPROBS, requires_grad=True)
    loss, got_kept, statistics = preference_loss(
        LossConfig(kind, LAM),
        logprobs,
        torch.tensor(REFERENCE),
        BORDERS,
        CHOSEN,
        REJECTED,
        REWARD,
    )
    assert got_kept.tolist() == kept
    assert statistics.margin.tolist() == pytest.approx(margins)
    expected = [softplus(-m) if keep else 0.0 for m, keep in zip(margins, kept, strict=True)]
    assert loss.tolist() == pytest.approx(expected)
    loss.sum().backward()
    # d loss / d a = -lam sigmoid(-m), d loss / d b = +lam w sigmoid(-m), the same for each token.
    pull = [LAM * sigmoid(-m) * keep for m, keep in zip(margins, kept, strict=True)]
    gold, wrong, right = -(pull[0] + pull[1]), scales[0] * pull[0], scales[1] * pull[1]
    expected_gradient = [gold] * 2 + [wrong] + [right] * 3
    assert logprobs.grad.tolist() == pytest.approx(expected_gradient)


def test_graded_rewards_scale_the_rejected_term_of_spft():
    logprobs = torch.tensor(LOGPROBS)
    _, _, statistics = preference_loss(
        LossConfig("spft", LAM),
        logprobs,
        torch.tensor(REFERENCE),
        BORDERS,
        CHOSEN,
        REJECTED,
        torch.tensor([0.5, 0.25]),
    )
    expected = [LAM * (1 + 0.5 * 0.5), LAM * (1 - 0.25 * 1.5)]
    assert statistics.margin.tolist() == pytest.approx(expected)


def test_weights_multiply_the_loss_and_its_gradient():
    weight = torch.tensor([3.0, 0.5])
    results = []
    for given in (None, weight):
        logprobs = torch.tensor(LOGPROBS, requires_grad=True)
        loss, _, _ = preference_loss(
            LossConfig("spin", LAM, nll_weight=0.3),
            logprobs,
            torch.tensor(REFERENCE),
            BORDERS,
            CHOSEN,
            REJECTED,
            REWARD,
            given,
        )
        results.append((loss, torch.autograd.grad(loss, logprobs, torch.ones(2))[0]))
    (plain, _), (weighted, gradient) = results
    torch.testing.assert_close(weighted, plain * weight)
    assert gradient[2] == pytest.approx(3 * LAM * sigmoid(-AGAINST_WRONG))


def test_nll_term_is_the_mean_over_the_golds_tokens():
    # -a / len = 0.5; each gold token gets -0.2 / 2 from each pair.
    results = []
    for nll_weight in (0.0, 0.2):
        logprobs = torch.tensor(LOGPROBS, requires_grad=True)
        loss, _, _ = preference_loss(
            LossConfig("spft", LAM, nll_weight),
            logprobs,
            torch.tensor(REFERENCE),
            BORDERS,
            CHOSEN,
            REJECTED,
            REWARD,
        )
        results.append((loss, torch.autograd.grad(loss, logprobs, torch.ones(2))[0]))
    (bare, bare_gradient), (loss, gradient) = results
    assert (loss - bare).tolist() == pytest.approx([0.1, 0.1])
    added = (gradient - bare_gradient).tolist()
    assert added == pytest.approx([-0.2, -0.2, 0, 0, 0, 0], abs=1e-7)


def test_completion_nll_sums_each_completion():
    logprobs = torch.tensor(LOGPROBS, requires_grad=True)
    nll = completion_nll(logprobs, BORDERS)
    assert nll.tolist() == [1.0, 3.0, 1.0]
    nll[1].backward()
    assert logprobs.grad.tolist() == [0, 0, -1, 0, 0, 0]


def test_an_empty_completion_is_refused():
    with pytest.raises(SpftError, match="Completion 0 is empty"):
        completion_nll(torch.zeros(2), torch.tensor([0, 0, 2]))


def test_hidden_states_to_loss_agrees_with_plain_pytorch_in_fp64():
    # One gold and two answers of a small head; a pair split over chunks of three rows.
    torch.manual_seed(0)
    hidden = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (6,))
    reference = torch.tensor(REFERENCE, dtype=torch.float64)
    logprobs = linear_logprobs(hidden, weight, targets, chunk_bytes=3 * 11 * 8)
    loss, _, _ = preference_loss(
        LossConfig("spft", LAM), logprobs, reference, BORDERS, CHOSEN, REJECTED, REWARD.double()
    )
    ours = torch.autograd.grad(loss.mean(), (hidden, weight))
    plain = torch.log_softmax(hidden @ weight.t(), -1)[torch.arange(6), targets] - reference
    gold, wrong = plain[:2].sum(), plain[2]
    losses = torch.log1p(torch.exp(torch.stack([-LAM * (gold - wrong), -LAM * gold])))
    truth = torch.autograd.grad(losses.mean(), (hidden, weight))
    torch.testing.assert_close(loss, losses)
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ppo", 1.0), "There is no loss called 'ppo'"),
        (("spft", 0.0), "must be positive"),
        (("spft", math.nan), "must be positive"),
        (("spft", 1.0, -0.1), "at least 0"),
    ],
)
def test_a_wrong_loss_config_is_refused(arguments, words):
    with pytest.raises(SpftError, match=words):
        LossConfig(*arguments)
