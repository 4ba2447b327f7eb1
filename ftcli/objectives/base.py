"""The interface of objectives: separate losses, and their reduction to the loss of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ftcli.core.callback import Callback, State
from ftcli.core.errors import UserError

Reduction = Literal["token", "sequence", "target", "constant"]


@dataclass
class Losses:
    """Losses of one micro-batch.

    Attributes:
        values: [n] float32, one loss a supervised token (or example), in the order of the batch.
        sequence_index: [n] int64, index within the batch of the sequence that each value belongs to.
        metrics: name -> further scalar to log, a mean over the micro-batch.
        hidden: [n, d], inputs of the output layer for the prediction of each value.
        head: the output layer, [.., d] -> logits [.., V]; penalties on outputs use hidden and head.
    """

    values: Tensor
    sequence_index: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    head: Callable[[Tensor], Tensor] | None = None


@dataclass
class Objective(Callback, ABC):
    """Base class of objectives, which are minimised.

    The loss of a step is one numerator over all its micro-batches and ranks, divided once by one
    denominator that is counted before the first forward pass, so that accumulating equals training
    on the large batch:

        token      sum of all values / number of values
        sequence   sum over sequences of their mean / number of sequences
        target     sum of all values / number of sequences
        constant   sum of all values / (`constant` x number of ranks)
    """

    #: Whether the loss has a gradient; without one the optimizer must use losses only.
    differentiable: ClassVar[bool] = True
    #: Whether FSDP2 (trainer.strategy=fsdp2) was verified to match single-process training.
    shardable: ClassVar[bool] = False

    reduction: Reduction = "token"  # what the loss is a mean over
    constant: float = 1.0  # divisor of reduction=constant

    @abstractmethod
    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return the losses of a micro-batch as the loader gives it (CPU tensors)."""

    def held_out_losses(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return the losses that held-out rows are judged by: those of training, unless overridden."""
        return self(model, batch)

    def rollout(self, state: State, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the micro-batches that a step trains on, given those of the loader.

        An objective that generates data (answers to the prompts of a batch) does it here, before the
        forward passes; what it keeps for later steps must be in `state_dict`.
        """
        return batches

    def layout_check_objective(self) -> Objective | None:
        """Return the objective whose losses show whether a model reads packed or padded rows rightly.

        `ftcli.models.batch_layout_check` calls it without `setup` on two rows of token ids. The default, None,
        is for objectives that read no rows of text: nothing is measured for them.
        """
        return None

    def denominator(self, batches: Sequence[dict[str, Any]]) -> float:
        """Return the contribution of one rank's micro-batches to the denominator of a step."""
        if self.reduction == "constant":
            return self.constant
        sizes = [self.sizes(batch) for batch in batches]
        values, sequences = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
        return float(values if self.reduction == "token" else sequences)

    @abstractmethod
    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Return the number of values and of sequences that the losses of a micro-batch will have."""

    def check_optimizer_supported(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise if this objective has no gradient and the optimizer needs one.

        Raises:
            UserError: the optimizer needs gradients.
        """
        if not self.differentiable and getattr(optimizer, "uses_backward", True):
            raise UserError(
                f"{type(self).__name__} has no gradient, and {type(optimizer).__name__} needs one.",
                where="objective",
                fix="optimizer=mezo, or objective=causal_lm",
            )

    def numerator(self, losses: Losses) -> Tensor:
        """Return the scalar that one micro-batch adds to the numerator."""
        if self.reduction != "sequence":
            return losses.values.sum()
        sizes = torch.bincount(losses.sequence_index)
        return (losses.values / sizes[losses.sequence_index]).sum()


def sum_by_source(
    losses: Losses, batch: dict[str, Any], titles: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return title of a source -> sum of its losses and their number, scalars on the losses' device.

    Nothing is read from the device. Empty where the batch does not say the sources of its documents, as
    for answers that were generated.

    Args:
        titles: names of the sources, in the order of their numbers in `batch["sources"]`.
    """
    if "sources" not in batch:
        return {}
    sources = batch["sources"]
    if batch.get("pairs") == len(losses.values):  # one loss a pair of documents
        sources = sources[::2]
    device = losses.values.device
    source_index = sources.to(device, non_blocking=True)[losses.sequence_index]
    values = losses.values.detach().float()
    sums = {}
    for number, title in enumerate(titles):
        here = source_index == number
        sums[title] = torch.where(here, values, torch.zeros_like(values)).sum(), here.sum()
    return sums
