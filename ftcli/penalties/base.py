"""Base class of penalties: a mean over items of the batch, added to the objective's loss with a weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ftcli.core.callback import Callback
from ftcli.objectives.base import Losses


@dataclass
class Penalty(Callback, ABC):
    """Base of the penalties of the group `penalty`.

    The loss of a step is the objective's plus, for each penalty, `weight` times its mean over all
    micro-batches and ranks. Each micro-batch's mean is weighted by its `size`, so that accumulation gives
    the loss of the large batch.
    """

    weight: float = 1.0  # factor before it is added to the loss

    def begin(self, batch: dict[str, Any]) -> None:
        """Called before the forward pass of a micro-batch, for example to enable hooks on modules."""

    @abstractmethod
    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """Return the mean over the micro-batch, a scalar with a gradient."""

    def size(self, batch: dict[str, Any]) -> float:
        """Return the number of items that the mean of a micro-batch is over: labelled tokens, unless overridden."""
        return float(batch["num_supervised"])
