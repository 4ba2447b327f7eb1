"""Distillation from the dense model: cross-entropy, KL of the logits, and SquareHead on hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from ftcli.core.hooks import Probes
from ftcli.methods.calibration import sequence_numbers
from ftcli.models.anatomy import Anatomy
from ftcli.objectives.base import Losses
from ftcli.objectives.causal_lm import (
    NextTokenPrediction,
    compute_hidden_and_head,
    find_supervised,
)
from ftcli.objectives.reference import Reference

if TYPE_CHECKING:
    from ftcli.core.run import Run

Head = Callable[[Tensor], Tensor]


@dataclass
class Distillation(NextTokenPrediction):
    """ce * CE + kl * T^2 KL(teacher || student) + squarehead * sum over layers of a normalised squared error.

    The teacher is the model that the run starts from, before the method changes it: frozen, in evaluation
    mode, on the same batch. CE and KL are of the tokens with a label. SquareHead is of all tokens but padding,
    the prompt's too; it belongs to a micro-batch as a whole, and is added to each of its tokens, so that
    micro-batches count by their labels. Held-out rows are judged by plain cross-entropy.

    The published code masks the KL by labels that are not shifted, which takes one position too early and
    leaves one out at the end of an answer; here positions are those that predict a label.
    """

    shardable: ClassVar[bool] = False

    ce: float = 1.0  # weight of the cross-entropy
    kl: float = 0.0  # weight of the divergence from the teacher's predictions
    squarehead: float = 1.0  # weight of the error of hidden states
    temperature: float = 1.0  # of both predictions in the divergence
    eps: float = 2.0**-7  # added to the energy of a layer; the published code's, of bfloat16
    _reference: Reference | None = field(default=None, init=False, repr=False)

    def setup(self, run: Run) -> None:
        """Make ready to load the teacher at its first use."""
        self._reference = Reference(run, "separate")

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [n], one a label; metrics: the terms of weight above 0 without their weights."""
        if self._reference is None:  # nothing to compare with, as in checks of a model alone
            return super().__call__(model, batch)
        with self._reference.model() as teacher:
            pass  # a copy of its own; what `Probes` read is switched off inside
        states, head = hidden_states(model, batch)
        with torch.no_grad():
            targets, teacher_head = hidden_states(teacher, batch)
        return self._combine(batch, states, head, targets, teacher_head)

    def _combine(
        self, batch: dict[str, Any], states: list[Tensor], head: Head, targets: list[Tensor], teacher_head: Head
    ) -> Losses:  # fmt: skip
        positions, labels, sequence_index = find_supervised(batch)
        device = states[-1].device
        real = (sequence_numbers(batch) >= 0).flatten().to(device)
        rows = (real.cumsum(0) - 1)[positions.to(device)]  # of the tokens that are no padding
        hidden, labels = states[-1][rows], labels.to(device)
        metrics: dict[str, Tensor] = {}
        logits = head(hidden).float()
        values = cross_entropy(logits, labels, reduction="none")
        metrics["ce"] = values.detach().mean()
        values = self.ce * values
        if self.kl:
            with torch.no_grad():
                taught = teacher_head(targets[-1][rows]).float()
            divergence = kl_divergence(taught, logits, self.temperature)
            metrics["kl"] = divergence.detach().mean()
            values = values + self.kl * divergence
        if self.squarehead:
            error = squarehead_loss(states, targets, self.eps)
            metrics["squarehead"] = error.detach()
            values = values + self.squarehead * error
        return Losses(values, sequence_index.to(device), metrics, hidden, head)


def kl_divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits [n, V], float32 [n]."""
    target = log_softmax(teacher / temperature, dim=-1)
    difference = target - log_softmax(student / temperature, dim=-1)
    return temperature**2 * (target.exp() * difference).sum(-1)


def squarehead_loss(states: list[Tensor], targets: list[Tensor], eps: float) -> Tensor:
    """Return sum_l MSE(s_l, t_l) / (MSE(t_l, 0) + eps), a scalar (arXiv 2310.06927, section 3).

    Args:
        states, targets: of student and teacher, one [tokens, width] a layer.
        eps: added to the energy of the teacher's layer.
    """
    terms = [
        (s.float() - t.float()).square().mean() / (t.detach().float().square().mean() + eps)
        for s, t in zip(states, targets, strict=True)
    ]
    return torch.stack(terms).sum()


def hidden_states(model: nn.Module, batch: dict[str, Any]) -> tuple[list[Tensor], Head]:
    """Return the hidden states after every block, each [tokens, width] without padding, and the output layer.

    The last are those after the final norm, as transformers counts them; embeddings are left out.
    """
    device = next(model.parameters()).device
    real = sequence_numbers(batch) >= 0
    length = real.shape[1]
    inner = dict(Anatomy(model).blocks[:-1])
    with Probes(inner) as probes:
        last, head = compute_hidden_and_head(model, batch, device)
        read = probes.take()
    real = real.flatten().to(device)

    def without_padding(passes: list[Tensor]) -> Tensor:
        if len(passes) > 1:  # a pass for each row, which has no padding
            return torch.cat([states.flatten(0, 1) for states in passes])
        return passes[0][:, :length].flatten(0, 1)[real]

    states = [without_padding(read[name]) for name in inner]
    return [*states, last.flatten(0, 1)[real]], head
