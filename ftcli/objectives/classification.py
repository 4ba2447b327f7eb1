"""Cross-entropy over the classes of a model with a classification head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ftcli.core.errors import UserError
from ftcli.models.heads import name_classes
from ftcli.objectives.base import Losses, Objective

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Classification(Objective):
    """Cross-entropy of the right class, one loss an example."""

    label_smoothing: float = 0.0  # share of the target that is spread over all classes

    def setup(self, run: Run) -> None:
        """Write the names of the data's classes into the model's configuration, so that they are saved.

        Raises:
            UserError: the numbers of classes of model and data differ.
        """
        names, config = run.data.names, run.model.config
        if len(names) != config.num_labels:
            raise UserError(
                f"the data have {len(names)} classes and the model's head has {config.num_labels}.",
                where="model.labels",
                fix=f"model.labels={len(names)}",
            )
        name_classes(run.model, names)

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [B]; metric: `accuracy` of the batch."""
        return self._classify(model, batch, self.label_smoothing)

    def held_out_losses(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [B] without label smoothing, comparable between runs."""
        return self._classify(model, batch, 0.0)

    def _classify(self, model: nn.Module, batch: dict[str, Any], smoothing: float) -> Losses:
        logits, labels = scores(model, batch)
        values = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        hits = (logits.argmax(1) == labels).float().mean()
        row = torch.arange(len(values), device=values.device)
        return Losses(values, row, {"accuracy": hits}, logits, lambda hidden: hidden)

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Return the number of examples twice: each is one value and one sequence."""
        return len(batch["labels"]), len(batch["labels"])


def scores(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return logits float32 [B, C] and labels int64 [B] of a batch, on the model's device."""
    device = next(model.parameters()).device
    inputs = {
        name: tensor.to(device, non_blocking=True) for name, tensor in batch["inputs"].items()
    }
    return model(**inputs).logits.float(), batch["labels"].to(device, non_blocking=True)
