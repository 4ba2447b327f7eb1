"""Loss and perplexity on rows the model did not train on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ftcli.errors import UserError
from ftcli.evaluation.decoding import judging

WIDER = 4  # a forward pass without backward keeps one layer's activations, not all of them


@dataclass
class Loss:
    """Mean loss over all trained tokens of a split, and its exponential.

    The run's own objective computes it, so that the figure is comparable with the training loss
    and logits exist only where a label does.
    """

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int | None = None  # rows (or packed bins) a forward pass; null: 4x the trainer's
    limit: int | None = None  # stop after this many rows; null reads all
    periodic: bool = True  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """`loss` in nats a trained token, and `perplexity`.

        Raises:
            UserError: the split does not exist or holds nothing to learn.
        """
        size = self.batch_size or WIDER * run.trainer.batch_size
        loader = run.data.loader(self.split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        total, count, rows = 0.0, 0, 0
        with judging(run) as model:
            for batch in loader:
                losses = run.objective(model, batch)
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
        scores = {"loss": mean, "perplexity": math.exp(min(mean, 700))}
        return scores if mean < 700 else {"loss": mean}
