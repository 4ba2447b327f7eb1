"""Evaluator: accuracy on the rows of each task, without telling the model which task they are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ftcli.models.decoding import evaluation_mode
from ftcli.objectives.classification import scores
from ftcli.papers.fpf.stream import split_tasks


@dataclass
class TaskAccuracy:
    """Share of rows whose most probable class of all classes is the right one, task by task."""

    split: str = "validation"  # which rows: validation, test or train
    batch_size: int = 64  # examples a forward pass
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Return `accuracy`, the mean over tasks in percent, and `loss` in nats an example."""
        accuracies, losses = self.measure_tasks(run)
        return {"accuracy": _mean(accuracies), "loss": _mean(losses)}

    def measure_tasks(self, run: Any) -> tuple[list[float], list[float]]:
        """Return accuracy in percent and loss in nats an example, for each task of the run's pipeline."""
        loader = run.data.loader(
            self.split, run.tokenizer, batch_size=self.batch_size, seed=0, shuffle=False
        )
        accuracies, losses = [], []
        with evaluation_mode(run) as model:
            for rows in split_tasks(loader.prepared, run.pipeline.tasks):
                parts = [
                    rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)
                ]
                results = [scores(model, loader.batch(part)) for part in parts]
                logits, labels = (torch.cat(values) for values in zip(*results, strict=True))
                accuracies.append(100 * (logits.argmax(1) == labels).double().mean().item())
                losses.append(cross_entropy(logits, labels).item())
        return accuracies, losses


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
