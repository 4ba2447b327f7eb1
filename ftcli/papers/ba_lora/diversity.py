"""Diversity of outputs (BA-LoRA, arXiv 2408.04556, L_DR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses
from ftcli.papers.ba_lora.outputs import OutputPenalty, predicted

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Diversity(OutputPenalty):
    """-H(P_F), the negative entropy of the predicted distribution, mean over labelled tokens.

    `form: classes`: (1/D) sum over i != j of C_ij^2, with C the covariance of the logits [n, D] of a
    micro-batch, which is VICReg's covariance term. It is not additive over micro-batches: accumulated
    ones give the mean of their covariance terms.

    The official code takes the entropy at prompt and padding positions too.

    Args:
        weight: the paper's lambda_2.
    """

    def setup(self, run: Run) -> None:
        """Refuse a covariance of single examples.

        Raises:
            UserError: `form: classes` with micro-batches of one.
        """
        if self.form == "classes" and run.trainer.batch_size < 2:
            raise UserError(
                "the covariance of one example is not defined.",
                where="trainer.batch_size",
                fix="trainer.batch_size=2 or more",
            )

    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """L_DR of the micro-batch."""
        hidden, head = predicted(losses)
        with self.gradient():
            if self.form == "classes":
                return off_diagonal_covariance(head(hidden))
            return self.mean(lambda h: -entropy(head(h)), hidden)


def entropy(logits: Tensor) -> Tensor:
    """H of the distributions of logits [n, V] -> [n] in nats, float32."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def off_diagonal_covariance(logits: Tensor) -> Tensor:
    """(1/D) sum over i != j of C_ij^2 for logits [n, D]; 0 for n = 1, the last row of an epoch."""
    z = logits.float()
    centred = z - z.mean(0)
    covariance = centred.T @ centred / max(1, len(z) - 1)
    off_diagonal = covariance - covariance.diagonal().diag()
    return off_diagonal.square().sum() / z.shape[1]
