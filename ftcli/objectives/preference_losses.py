"""Losses of P pairs, [P] each. Delta = score of the chosen minus score of the rejected answer.

Scores are log-ratios r = log pi(y|x) - log pi_ref(y|x) unless another f-divergence is configured; T is
the number of tokens of an answer, w and l mark chosen and rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ftcli.objectives.preference import PairComparison

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
LARGEST = 80.0  # larger exponents overflow float32


@dataclass(frozen=True)
class Settings:
    """beta, label smoothing epsilon, and temperature tau of discopop."""

    beta: float = 0.1
    epsilon: float = 0.0
    tau: float = 0.05


def divergence(ratios: Tensor, kind: Divergence, alpha: float) -> Tensor:
    """Return f'(u) - f'(1) at u = exp(ratio) (f-DPO, arXiv 2309.16240, table 1).

    reverse_kl log u; forward_kl 1 - 1/u; js_divergence log(2u / (1 + u));
    alpha_divergence (u^(alpha - 1) - 1) / (alpha - 1), which is log u at alpha = 1.
    """
    if kind == "forward_kl":
        return 1 - torch.exp(-ratios)
    if kind == "js_divergence":
        return math.log(2) + logsigmoid(ratios)
    if kind == "alpha_divergence" and abs(alpha - 1) >= 1e-6:
        exponent = ((alpha - 1) * ratios).clamp(max=LARGEST)
        return (torch.exp(exponent) - 1) / (alpha - 1)
    return ratios


def sigmoid(c: PairComparison, s: Settings) -> Tensor:
    """-log sigma(beta Delta) (DPO, arXiv 2305.18290, equation 7)."""
    return -logsigmoid(s.beta * c.delta)


def sigmoid_norm(c: PairComparison, s: Settings) -> Tensor:
    """-log sigma(beta (s_w / T_w - s_l / T_l)) (Tulu 3, arXiv 2411.15124)."""
    return -logsigmoid(s.beta * c.mean_delta)


def hinge(c: PairComparison, s: Settings) -> Tensor:
    """max(0, 1 - beta Delta) (SLiC, arXiv 2305.10425, in the form of RSO, 2309.06657)."""
    return torch.relu(1 - s.beta * c.delta)


def ipo(c: PairComparison, s: Settings) -> Tensor:
    """(s_w / T_w - s_l / T_l - 1 / (2 beta))^2 (IPO, arXiv 2310.12036, equation 17, by token)."""
    return (c.mean_delta - 1 / (2 * s.beta)) ** 2


def robust(c: PairComparison, s: Settings) -> Tensor:
    """[-(1 - e) log sigma(beta Delta) + e log sigma(-beta Delta)] / (1 - 2 e) (arXiv 2403.00409)."""
    z = s.beta * c.delta
    kept, flipped = -logsigmoid(z), -logsigmoid(-z)
    return ((1 - s.epsilon) * kept - s.epsilon * flipped) / (1 - 2 * s.epsilon)


def exo_pair(c: PairComparison, s: Settings) -> Tensor:
    """KL of (sigma(beta Delta), sigma(-beta Delta)) to (1 - e, e) (EXO, arXiv 2402.00856, eq. 16)."""
    z = s.beta * c.delta
    won = torch.sigmoid(z) * (logsigmoid(z) - math.log1p(-s.epsilon))
    return won + torch.sigmoid(-z) * (logsigmoid(-z) - math.log(s.epsilon))


def nca_pair(c: PairComparison, s: Settings) -> Tensor:
    """-log sigma(b_w) - (log sigma(-b_w) + log sigma(-b_l)) / 2, b = beta r (arXiv 2402.05369)."""
    chosen, rejected = (s.beta * c.ratios).unbind(1)
    return -logsigmoid(chosen) - 0.5 * (logsigmoid(-chosen) + logsigmoid(-rejected))


def bco_pair(c: PairComparison, s: Settings) -> Tensor:
    """-log sigma(beta r_w) - log sigma(-beta r_l) (BCO, arXiv 2404.04656, without its shift)."""
    chosen, rejected = (s.beta * c.ratios).unbind(1)
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def sppo_hard(c: PairComparison, s: Settings) -> Tensor:
    """(r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2 (SPPO, arXiv 2405.00675, with P of 1 and 0)."""
    chosen, rejected = c.ratios.unbind(1)
    return (chosen - 0.5 / s.beta) ** 2 + (rejected + 0.5 / s.beta) ** 2


def aot(c: PairComparison, s: Settings) -> Tensor:
    """Sorted log pi(w)/pi(l) against sorted log pi_ref(w)/pi_ref(l) (AOT, arXiv 2406.05882)."""
    policy, reference = (logps[:, 0] - logps[:, 1] for logps in (c.policy, c.reference))
    return _smooth(policy.sort().values - reference.sort().values, s)


def aot_unpaired(c: PairComparison, s: Settings) -> Tensor:
    """Sorted r_w against sorted r_l (AOT, arXiv 2406.05882)."""
    chosen, rejected = c.ratios.unbind(1)
    return _smooth(chosen.sort().values - rejected.sort().values, s)


def _smooth(delta: Tensor, s: Settings) -> Tensor:
    """Return -(1 - e) log sigma(beta delta) - e log sigma(-beta delta)."""
    z = s.beta * delta
    return -(1 - s.epsilon) * logsigmoid(z) - s.epsilon * logsigmoid(-z)


def apo_zero(c: PairComparison, s: Settings) -> Tensor:
    """1 - sigma(beta r_w) + sigma(beta r_l) (APO, arXiv 2408.06266, equation 7)."""
    chosen, rejected = torch.sigmoid(s.beta * c.ratios).unbind(1)
    return 1 - chosen + rejected


def apo_down(c: PairComparison, s: Settings) -> Tensor:
    """sigma(beta r_w) + 1 - sigma(beta (r_w - r_l)) (APO, arXiv 2408.06266, equation 8)."""
    chosen, rejected = (s.beta * c.ratios).unbind(1)
    return torch.sigmoid(chosen) + 1 - torch.sigmoid(chosen - rejected)


def discopop(c: PairComparison, s: Settings) -> Tensor:
    """(1 - q)(-log sigma(z)) + q exp(-z), z = beta Delta, q = sigma(z / tau) (arXiv 2406.08414)."""
    z = s.beta * c.delta
    mix = torch.sigmoid(z / s.tau)
    return (1 - mix) * -logsigmoid(z) + mix * torch.exp(-z)


def sft(c: PairComparison, s: Settings) -> Tensor:
    """Cross-entropy of the chosen answers, a mean over their tokens."""
    return c.nll


PairLoss = Callable[[PairComparison, Settings], Tensor]
LOSSES: dict[str, PairLoss] = {
    loss.__name__: loss
    for loss in (
        sigmoid, sigmoid_norm, hinge, ipo, robust, exo_pair, nca_pair, bco_pair, sppo_hard, aot,
        aot_unpaired, apo_zero, apo_down, discopop, sft,
    )
}  # fmt: skip
#: Losses of scores, which may come from any f-divergence; the others are derived for log-ratios.
SCORE_LOSSES = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "discopop", "sft"}
#: Losses that are not a sum over pairs, so that pairs cannot be weighted.
BATCH_LOSSES = {"aot", "aot_unpaired", "sft"}
