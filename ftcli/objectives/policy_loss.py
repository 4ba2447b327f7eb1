"""Policy losses of sampled tokens: GRPO and its relatives, as formulas over flat tensors.

Tokens of all answers of a micro-batch are concatenated, [n]; `owner` [n] says which answer a
token belongs to, and A answers have advantages [A].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ftcli.core.errors import UserError

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
LOG_LEAST, LOG_MOST = math.log(1e-8), 20.0  # bounds of the logarithm of VESPO's sequence ratio


class Tokens(NamedTuple):
    """Inputs of the loss of n tokens of A answers.

    Attributes:
        log_probs: [n] log-probabilities under the trained model, with gradient.
        old: [n] under the model that sampled them; None where that is the trained model.
        reference: [n] under the reference; None without a KL term.
        entropy: [n] entropy of the model's distribution at each token, in nats.
        advantages: [A].
        owner: [n] int64, the answer of each token.
    """

    log_probs: Tensor
    old: Tensor | None
    reference: Tensor | None
    entropy: Tensor
    advantages: Tensor
    owner: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over each answer's tokens, [A]; 0 for an answer without tokens."""
        return self.sum(values) / self.sum(torch.ones_like(values)).clamp(min=1)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over each answer's tokens, [A]."""
        return values.new_zeros(len(self.advantages)).index_add(0, self.owner, values)


@dataclass
class PolicyLoss:
    """The loss of each token, before any mean.

        grpo, bnpo, dr_grpo, dapo, luspo   -min(rho A, clip(rho, 1 - eps, 1 + eps_high) A)
        cispo                              -sg(min(rho, eps_high)) A log pi
        sapo                               -(4 / tau) sigmoid(tau (rho - 1)) A
        vespo                              -sg(phi(w)) A log pi, phi(w) = e^l w^k e^(-l w)

    rho is pi / pi_old of the token, or (GSPO) the geometric mean over the answer; w is the product
    over the answer; sg stops the gradient. Names are those of TRL, with which values and gradients
    agree. Sources: GRPO arXiv 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, CISPO 2506.13585,
    GSPO 2507.18071; two-sided clipping 2505.07291.
    """

    loss_type: LossType = "dapo"  # which loss, and what it is a mean over
    epsilon: float = 0.2  # lower clip of the ratio: 1 - epsilon
    epsilon_high: float | None = (
        None  # upper clip: 1 + epsilon_high (cispo: epsilon_high); null: epsilon
    )
    delta: float | None = None  # upper clip where the advantage is negative; null: none
    importance_sampling_level: Literal["token", "sequence"] = "token"  # what the ratio is of
    beta: float = 0.0  # weight of the divergence from the reference
    kl_times_ratio: bool = False  # the divergence is weighted by the ratio, which makes it unbiased
    top_entropy_quantile: float = (
        1.0  # share of tokens, those of highest entropy, that are trained on
    )
    off_policy_mask_threshold: float | None = (
        None  # negative answers with a larger mean log-ratio to the old policy are left out
    )
    sapo_temperature_pos: float = 1.0  # tau where the advantage is positive
    sapo_temperature_neg: float = 1.05  # tau elsewhere
    vespo_k_pos: float = 2.0  # k where the advantage is not negative
    vespo_lambda_pos: float = 3.0  # lambda there
    vespo_k_neg: float = 3.0  # k elsewhere
    vespo_lambda_neg: float = 2.0  # lambda elsewhere

    def __post_init__(self) -> None:
        if not 0 < self.top_entropy_quantile <= 1:
            raise UserError(
                f"top_entropy_quantile={self.top_entropy_quantile} is not a share of the tokens.",
                where="objective.top_entropy_quantile",
                fix="more than 0, at most 1",
            )
        if self.loss_type == "cispo" and self.epsilon_high is None:
            raise UserError(
                "loss_type=cispo clips the ratio at epsilon_high, which is not set.",
                where="objective.epsilon_high",
                fix="objective.epsilon_high=5",
            )

    @property
    def high(self) -> float:
        """The distance above 1 at which the ratio is clipped."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def losses(self, tokens: Tokens) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses [n], and figures: the divergence `kl`, the share of tokens that were `clipped`."""
        old = tokens.log_probs.detach() if tokens.old is None else tokens.old
        log_ratio = tokens.log_probs - old
        ratio = self._ratio(tokens, log_ratio)
        advantages = tokens.advantages[tokens.owner]
        values, figures = self._policy(tokens, log_ratio, ratio, advantages)
        if self.off_policy_mask_threshold is not None:
            drift = tokens.mean(-log_ratio.detach())[tokens.owner]
            values = values * ((advantages >= 0) | (drift <= self.off_policy_mask_threshold))
        values = values * self.select_tokens(tokens.entropy)
        if tokens.reference is not None:
            divergence = k3(tokens.log_probs, tokens.reference)
            figures["kl"] = _mean(divergence)
            values = values + self.beta * (
                divergence * ratio if self.kl_times_ratio else divergence
            )
        return values, figures

    def select_tokens(self, entropy: Tensor) -> Tensor:
        """Return which tokens [n] are trained on: the `top_entropy_quantile` of the micro-batch."""
        if self.top_entropy_quantile == 1 or not len(entropy):
            return torch.ones_like(entropy, dtype=torch.bool)
        entropy = entropy.detach().float()
        return entropy >= torch.quantile(entropy, 1 - self.top_entropy_quantile)

    def _ratio(self, tokens: Tokens, log_ratio: Tensor) -> Tensor:
        if self.importance_sampling_level == "sequence":
            log_ratio = tokens.mean(log_ratio)[tokens.owner]
        return log_ratio.exp()

    def _policy(
        self, tokens: Tokens, log_ratio: Tensor, ratio: Tensor, advantages: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.loss_type in CLIPPED:
            return self._clip_loss(ratio, advantages)
        if self.loss_type == "cispo":
            clipped = (ratio > self.high) & (advantages > 0)
            weight = ratio.clamp(max=self.high).detach()
            return -weight * advantages * tokens.log_probs, {"clipped": _mean(clipped.float())}
        if self.loss_type == "sapo":
            up, down = self.sapo_temperature_pos, self.sapo_temperature_neg
            tau = torch.where(advantages > 0, up, down)
            return -4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantages, {}
        weight = self._vespo_weight(tokens, log_ratio.detach())[tokens.owner]
        return -weight * advantages * tokens.log_probs, {}

    def _clip_loss(self, ratio: Tensor, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inside = ratio.clamp(1 - self.epsilon, 1 + self.high)
        if self.delta is not None:
            ratio = ratio.clamp(max=self.delta)
        below = (ratio < 1 - self.epsilon) & (advantages < 0)
        above = (ratio > 1 + self.high) & (advantages > 0)
        figures = {"clipped": _mean((below | above).float())}
        return -torch.min(ratio * advantages, inside * advantages), figures

    def _vespo_weight(self, tokens: Tokens, log_ratio: Tensor) -> Tensor:
        """Return phi(w) [A], with w the ratio of the whole answer."""
        log_w = tokens.sum(log_ratio.clamp(-LOG_MOST, LOG_MOST)).clamp(LOG_LEAST, LOG_MOST)
        good = tokens.advantages >= 0
        k = torch.where(good, self.vespo_k_pos, self.vespo_k_neg)
        rate = torch.where(good, self.vespo_lambda_pos, self.vespo_lambda_neg).clamp(min=1e-4)
        return (rate + k * log_w - rate * log_w.exp()).exp()


def k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return the non-negative estimate [n] of KL(pi, pi_ref): e^d - d - 1, d = log pi_ref - log pi.

    Source: Schulman 2020, "Approximating KL divergence"; GRPO arXiv 2402.03300, eq. 4.
    """
    difference = reference - log_probs
    return difference.exp() - difference - 1


def _mean(values: Tensor) -> Tensor:
    """Return the mean; 0 for an empty tensor."""
    return values.detach().sum() / max(1, values.numel())
