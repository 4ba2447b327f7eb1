"""Diversity of outputs (BA-LoRA, arXiv 2408.04556, L_DR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses
from ftcli.papers.ba_lora.outputs import OutputPenalty, require_logits

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
        """Refuse `form: classes` where a micro-batch has a single example.

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
        """Return L_DR of the micro-batch, in nats for `form: tokens`."""
        hidden, head = require_logits(losses)
        with self.enable_gradient():
            if self.form == "classes":
                return off_diagonal_covariance(head(hidden))
            return self.mean_over_chunks(lambda h: -entropy(head(h)), hidden)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropies [n] of the distributions of logits [n, V], in nats, float32."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def off_diagonal_covariance(logits: Tensor) -> Tensor:
    """Return (1/D) sum over i != j of C_ij^2 for logits [n, D]; 0 for n = 1, which an epoch may end with."""
    z = logits.float()
    centred = z - z.mean(0)
    covariance = centred.T @ centred / max(1, len(z) - 1)
    off_diagonal = covariance - covariance.diagonal().diag()
    return off_diagonal.square().sum() / z.shape[1]
