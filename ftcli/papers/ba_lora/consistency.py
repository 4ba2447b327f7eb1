"""Consistency with the pretrained model (BA-LoRA, arXiv 2408.04556, L_CR)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from ftcli.objectives.base import Losses
from ftcli.objectives.reference import Mode, Reference
from ftcli.papers.ba_lora.outputs import OutputPenalty, require_logits

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Consistency(OutputPenalty):
    """KL(P_P || P_F) of the pretrained to the finetuned distribution, mean over labelled tokens.

    `form: classes`: mean squared difference of the logits [n, D], each row divided by its length.

    The official code differs. It sums over all positions, prompt and padding included, and divides by
    the batch size; and it loads the teacher from the path of the student, which for a converted PiSSA
    checkpoint is the residual model. Here the teacher is the pretrained model.

    Args:
        weight: the paper's lambda_1.
        reference: adapter_off or separate (a second copy); auto takes the first where the method
            leaves the base unchanged.
    """

    reference: Mode = "auto"
    _teacher: Reference | None = field(default=None, init=False, repr=False)

    def setup(self, run: Run) -> None:
        """Create the teacher.

        Raises:
            UserError: `reference: adapter_off` with a method that changes the base.
        """
        self._teacher = Reference(run, self.reference)

    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """Return L_CR of the micro-batch, in nats for `form: tokens`."""
        assert self._teacher is not None, "call setup first"
        hidden, head = require_logits(losses)
        teacher, teacher_head = require_logits(self._teacher(batch))
        with self.enable_gradient():
            if self.form == "classes":
                return logit_distance(head(hidden), teacher_head(teacher))
            return self.mean_over_chunks(
                lambda h, t: kl_divergence(teacher_head(t), head(h)), hidden, teacher
            )


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) [n] of logits [n, V], in nats, float32."""
    log_p, log_q = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over [n, D] of (z_F / ||z_F|| - z_P / ||z_P||)^2, norms by row; float32."""
    return mse_loss(normalize(student.float(), dim=-1), normalize(teacher.float(), dim=-1))
