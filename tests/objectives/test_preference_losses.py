"""Every loss of pairs against its formula in plain numbers, and what must hold of all of them."""

from __future__ import annotations

import math

import pytest
import torch

from ftcli.objectives.preference import Answers, PairComparison, reward_metrics
from ftcli.objectives.preference_losses import LOSSES, SCORE_LOSSES, Settings, divergence

BETA, EPSILON, TAU = 0.3, 0.1, 0.5
SETTINGS = Settings(BETA, EPSILON, TAU)
R_W, R_L, T_W, T_L, NLL = 1.7, -0.6, 4, 6, 2.5


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


Z = BETA * (R_W - R_L)
W, L = BETA * R_W, BETA * R_L
MEANS = R_W / T_W - R_L / T_L
WANTED = {
    "sigmoid": -log_sigma(Z),
    "sigmoid_norm": -log_sigma(BETA * MEANS),
    "hinge": max(0, 1 - Z),
    "ipo": (MEANS - 1 / (2 * BETA)) ** 2,
    "robust": (-(1 - EPSILON) * log_sigma(Z) + EPSILON * log_sigma(-Z)) / (1 - 2 * EPSILON),
    "exo_pair": sigma(Z) * (log_sigma(Z) - math.log(1 - EPSILON))
    + sigma(-Z) * (log_sigma(-Z) - math.log(EPSILON)),
    "nca_pair": -log_sigma(W) - 0.5 * log_sigma(-W) - 0.5 * log_sigma(-L),
    "bco_pair": -log_sigma(W) - log_sigma(-L),
    "sppo_hard": (R_W - 1 / (2 * BETA)) ** 2 + (R_L + 1 / (2 * BETA)) ** 2,
    "aot": -(1 - EPSILON) * log_sigma(Z) - EPSILON * log_sigma(-Z),
    "aot_unpaired": -(1 - EPSILON) * log_sigma(Z) - EPSILON * log_sigma(-Z),
    "apo_zero": 1 - sigma(W) + sigma(L),
    "apo_down": sigma(W) + 1 - sigma(Z),
    "discopop": (1 - sigma(Z / TAU)) * -log_sigma(Z) + sigma(Z / TAU) * math.exp(-Z),
    "sft": NLL,
}


def compared(ratios, lengths=((T_W, T_L),), nll=(NLL,)) -> PairComparison:
    """Pairs of these log-ratios; the reference's log-probabilities are any."""
    ratios = torch.as_tensor(ratios, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    reference = -torch.rand(ratios.shape, generator=generator, dtype=torch.float64)
    lengths = torch.tensor(lengths)
    return PairComparison(reference + ratios, reference, lengths, ratios, torch.tensor(nll))


@pytest.mark.parametrize("name", LOSSES)
def test_the_formula_in_plain_numbers(name):
    loss = LOSSES[name](compared([[R_W, R_L]]), SETTINGS)
    assert loss.item() == pytest.approx(WANTED[name], rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"aot", "aot_unpaired"}))
def test_pairs_know_nothing_of_one_another(name):
    rows = [[R_W, R_L], [0.4, 0.9], [-2.0, 1.0]]
    lengths, nll = [(4, 6), (2, 2), (5, 3)], [2.5, 1.0, 0.5]
    whole = LOSSES[name](compared(rows, lengths, nll), SETTINGS)
    for i in range(3):
        alone = LOSSES[name](
            compared(rows[i : i + 1], lengths[i : i + 1], nll[i : i + 1]), SETTINGS
        )
        assert whole[i].item() == pytest.approx(alone.item(), rel=1e-9)


def test_aot_compares_sorted_values():
    pairs = compared([[1.0, 0.0], [0.0, 2.0]], [(1, 1)] * 2, [0.0] * 2)
    losses = LOSSES["aot_unpaired"](pairs, Settings(1.0))
    assert losses.tolist() == pytest.approx([-log_sigma(0.0), -log_sigma(1.0 - 2.0)])


def test_without_smoothing_robust_is_sigmoid_and_swapping_turns_the_sign():
    pair, swapped = compared([[R_W, R_L]]), compared([[R_L, R_W]])
    plain = Settings(BETA)
    assert torch.equal(LOSSES["robust"](pair, plain), LOSSES["sigmoid"](pair, plain))
    assert torch.equal(pair.delta, -swapped.delta)
    assert LOSSES["sigmoid"](swapped, plain).item() == pytest.approx(-log_sigma(-Z))


def test_the_gradient_is_the_one_of_the_paper():
    """-beta sigma(-beta Delta) (grad log pi(w) - grad log pi(l)), equation 7 of DPO."""
    ratios = torch.tensor([[R_W, R_L]], dtype=torch.float64, requires_grad=True)
    pair = PairComparison(ratios, torch.zeros(1, 2), torch.tensor([[4, 6]]), ratios, torch.zeros(1))
    LOSSES["sigmoid"](pair, SETTINGS).sum().backward()
    slope = BETA * sigma(-Z)
    assert ratios.grad.tolist()[0] == pytest.approx([-slope, slope])


def test_divergences_are_f_prime_and_agree_at_the_reference():
    ratios = torch.tensor([0.0, 0.8, -1.3], dtype=torch.float64)
    u = ratios.exp()
    wanted = {
        "reverse_kl": u.log(),
        "forward_kl": 1 - 1 / u,
        "js_divergence": (2 * u / (1 + u)).log(),
        "alpha_divergence": (u ** (0.5 - 1) - 1) / (0.5 - 1),
    }
    for kind, values in wanted.items():
        actual = divergence(ratios, kind, 0.5)
        assert torch.allclose(actual, values) and actual[0] == 0
    assert torch.equal(divergence(ratios, "alpha_divergence", 1.0), ratios)
    assert SCORE_LOSSES <= set(LOSSES)


def test_sums_of_answers_and_the_tail_beyond_the_shorter_one():
    tokens = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0])
    answers = Answers.from_tokens(tokens, torch.tensor([0, 0, 0, 1, 1]), 1)
    assert answers.lengths.tolist() == [3, 2]
    assert answers.sums().tolist() == [[-6.0, -9.0]]
    assert answers.sums(0.5).tolist() == [[-1.0 - 2.0 - 1.5, -9.0]]
    assert answers.sums(0.0).tolist() == [[-3.0, -9.0]]
    assert answers.means(tokens).tolist() == [[-2.0, -4.5]]


def test_rewards_and_their_accuracy_is_strict():
    pairs = compared([[1.0, 0.0], [0.5, 0.5], [-1.0, 2.0]], [(1, 1)] * 3, [0.0] * 3)
    exact = PairComparison(pairs.ratios, torch.zeros(3, 2), pairs.lengths, pairs.scores, pairs.nll)
    metrics = {k: v.item() for k, v in reward_metrics(exact, 0.1).items()}
    assert metrics["rewards/accuracy"] == pytest.approx(1 / 3)
    assert metrics["rewards/margin"] == pytest.approx(0.1 * (1 + 0 - 3) / 3)
    assert metrics["rewards/chosen"] == pytest.approx(0.1 * 0.5 / 3)
    assert metrics["rewards/margin"] == pytest.approx(
        metrics["rewards/chosen"] - metrics["rewards/rejected"]
    )
