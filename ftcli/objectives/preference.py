"""Pairs of answers to the same prompt: their log-probabilities under the policy and a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError


@dataclass(frozen=True)
class Answers:
    """Log-probabilities of the tokens of 2 P answers: chosen, rejected, chosen, ...

    Attributes:
        tokens: [n] float32, log-probability of each token of an answer given all tokens before it.
        owner: [n] int64, the answer each belongs to, not decreasing.
        lengths: [2 P] int64, tokens of each answer.
    """

    tokens: Tensor
    owner: Tensor
    lengths: Tensor

    @classmethod
    def from_tokens(cls, tokens: Tensor, owner: Tensor, pairs: int) -> Answers:
        """Create from the tokens and their owners in `pairs` pairs."""
        return cls(tokens, owner, torch.bincount(owner, minlength=2 * pairs))

    def sums(self, tail: float | None = None) -> Tensor:
        """Return log pi(y|x), the sum over each answer's tokens: [P, 2], chosen and rejected.

        Args:
            tail: factor on the tokens beyond the length of the shorter answer of the pair (LD-DPO,
                arXiv 2409.06411); None: 1.
        """
        values = self.tokens
        if tail is not None:
            shared = self.lengths.view(-1, 2).amin(1).repeat_interleave(2)
            values = torch.where(self._position() < shared[self.owner], values, tail * values)
        return self._sum_by_answer(values).view(-1, 2)

    def means(self, values: Tensor) -> Tensor:
        """Return the mean of `values` [n] over each answer's tokens, [P, 2]."""
        return (self._sum_by_answer(values) / self.lengths.clamp(min=1)).view(-1, 2)

    def _sum_by_answer(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.lengths)).index_add(0, self.owner, values)

    def _position(self) -> Tensor:
        """Return the index of each token within its answer, from 0."""
        starts = self.lengths.cumsum(0) - self.lengths
        return torch.arange(len(self.owner), device=self.owner.device) - starts[self.owner]


@dataclass(frozen=True)
class PairComparison:
    """P pairs of answers under policy and reference.

    Attributes:
        policy, reference: [P, 2] log pi(y|x), chosen and rejected.
        lengths: [P, 2] int64, tokens of the answers.
        scores: [P, 2] f'(pi / pi_ref), by default the log-ratios themselves; see `divergence`.
        nll: [P] the pair's share of the cross-entropy of chosen answers: their mean over pairs is
            the mean over tokens.
    """

    policy: Tensor
    reference: Tensor
    lengths: Tensor
    scores: Tensor
    nll: Tensor

    @property
    def ratios(self) -> Tensor:
        """Log-ratios log pi(y|x) - log pi_ref(y|x), [P, 2]."""
        return self.policy - self.reference

    @property
    def delta(self) -> Tensor:
        """Score of the chosen minus that of the rejected answer, [P]."""
        return self.scores[:, 0] - self.scores[:, 1]

    @property
    def mean_delta(self) -> Tensor:
        """`delta` with each score divided by the number of tokens of its answer, [P]."""
        means = self.scores / self.lengths.clamp(min=1)
        return means[:, 0] - means[:, 1]


def reward_metrics(compared: PairComparison, beta: float) -> dict[str, Tensor]:
    """Return means over pairs of the implicit rewards beta * log-ratio; accuracy counts chosen > rejected."""
    rewards = beta * compared.ratios.detach()
    chosen, rejected = rewards.unbind(1)
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margin": (chosen - rejected).mean(),
        "rewards/accuracy": (chosen > rejected).float().mean(),
    }


def count_pairs(batch: dict[str, Any]) -> int:
    """Return the number of pairs in a batch.

    Raises:
        UserError: its rows are not pairs.
    """
    if "pairs" not in batch:
        raise UserError(
            "this objective compares two answers, and these rows have one.",
            where="data.pairs",
            fix="data.pairs=true, with preference rows (data=preference)",
        )
    return int(batch["pairs"])
