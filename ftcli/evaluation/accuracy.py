"""Evaluator: accuracy of a model with a classification head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.nn.functional import cross_entropy

from ftcli.models.decoding import evaluation_mode
from ftcli.objectives.classification import scores


@dataclass
class Accuracy:
    """Share of examples whose most probable class is the right one, whatever the objective was."""

    split: str = "validation"  # which rows: validation, test or train
    top_k: int | None = None  # also report top-k accuracy; null: no
    batch_size: int = 64  # examples a forward pass
    limit: int | None = None  # stop after this many examples; null reads all
    periodic: bool = True  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Return `accuracy` and `top<k>` in percent, and `loss` in nats an example.

        Raises:
            UserError: the split does not exist.
        """
        loader = run.data.loader(
            self.split, run.tokenizer, batch_size=self.batch_size, seed=0, shuffle=False
        )
        hits = among = loss = 0.0
        rows = 0
        with evaluation_mode(run) as model:
            for batch in loader:
                logits, labels = scores(model, batch)
                hits += (logits.argmax(1) == labels).sum().item()
                best = logits.topk(min(self.top_k or 1, logits.shape[1])).indices
                among += (best == labels[:, None]).sum().item()
                loss += cross_entropy(logits, labels, reduction="sum").item()
                rows += len(labels)
                if self.limit is not None and rows >= self.limit:
                    break
        figures = {"accuracy": 100 * hits / rows, "loss": loss / rows}
        return figures if self.top_k is None else figures | {f"top{self.top_k}": 100 * among / rows}
