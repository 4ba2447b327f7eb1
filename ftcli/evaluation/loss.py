"""Loss and perplexity on rows the model did not train on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ftcli.errors import UserError
from ftcli.evaluation.decoding import judging


@dataclass
class Loss:
    """Mean loss over all trained tokens of a split, and its exponential.

    The run's own objective computes it, so that the figure is comparable with the training loss
    and logits exist only where a label does.
    """

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int = 16  # rows (or packed bins) a forward pass
    limit: int | None = None  # stop after this many rows; null reads all

    def __call__(self, run: Any) -> dict[str, float]:
        loader = run.data.loader(
            self.split, run.tokenizer, batch_size=self.batch_size, seed=0, shuffle=False
        )
        total, count, rows = 0.0, 0, 0
        with judging(run) as model:
            device = next(model.parameters()).device
            for batch in loader:
                losses = run.objective(model, on_device(batch, device))
                total += losses.values.double().sum().item()
                count += losses.values.numel()
                rows += len(batch["rows"])
                if self.limit is not None and rows >= self.limit:
                    break
        if not count:
            raise UserError(
                f"the split '{self.split}' has no token to judge the model on.",
                where="eval",
                fix="give data.validation a share, or set eval=none",
            )
        mean = total / count
        return {"loss": mean, "perplexity": math.exp(mean) if mean < 700 else math.inf}


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device; the rest as it is."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
