"""Evaluator: loss and perplexity on held-out rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ftcli.core.errors import UserError
from ftcli.models.decoding import evaluation_mode
from ftcli.objectives.base import sum_by_source

# Without a backward pass only one layer's activations are in memory, so an accelerator can take more
# rows at a time. A CPU is not faster for it (llama_mini, 176 rows: 4.7 s in 16s, 6.0 s in 64s).
WIDER = 4


@dataclass
class Loss:
    """Mean loss over all trained tokens of a split, and its exponential.

    The run's objective computes it, so that logits are computed only at labelled positions. Where training
    minimises a variant of the cross-entropy (label smoothing, DFT), this is the cross-entropy itself.
    """

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int | None = (
        None  # rows (or packed bins) a forward pass; null: the trainer's, 4x that on a GPU
    )
    limit: int | None = None  # stop after this many rows; null reads all
    periodic: bool = True  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Return `loss` in nats a trained token, and `perplexity`; of several sources each `loss/<title>`.

        Raises:
            UserError: the split does not exist or has no labelled token.
        """
        wider = 1 if run.accelerator.device.type == "cpu" else WIDER
        size = self.batch_size or wider * run.trainer.batch_size
        loader = run.data.loader(self.split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        titles = getattr(run.data, "titles", ())  # images have one source
        total, count, rows = 0.0, 0, 0
        by_source: dict[str, tuple[Any, Any]] = {}
        with evaluation_mode(run) as model:
            for batch in loader:
                losses = run.objective.held_out_losses(model, batch)
                total += losses.values.double().sum().item()
                count += losses.values.numel()
                rows += len(batch["indices"])
                for title, (part, n) in sum_by_source(losses, batch, titles).items():
                    known = by_source.get(title, (0.0, 0))
                    by_source[title] = known[0] + part.double(), known[1] + n
                if self.limit is not None and rows >= self.limit:
                    break
        if not count:
            raise UserError(
                f"the split '{self.split}' has no token to evaluate the model on.",
                where="eval",
                fix="give data.validation a share, or set eval=none",
            )
        mean = total / count
        scores = {"loss": mean, "perplexity": math.exp(min(mean, 700))}
        scores |= {f"loss/{t}": float(part / n) for t, (part, n) in by_source.items() if n > 0}
        if mean >= 700:
            del scores["perplexity"]
        return scores
