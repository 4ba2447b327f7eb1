"""Cross-entropy of classes one by one, and the accuracy that the evaluator counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ftcli.evaluation.accuracy import Accuracy
from ftcli.objectives.classification import Classification

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0], [0.0, 1.0, 0.5], [1.0, 0.0, 0.2]])
LABELS = torch.tensor([0, 1, 1, 2])


class Answers(nn.Module):
    """Gives the logits it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, logits):
        return SimpleNamespace(logits=logits * self.factor)


BATCH = {
    "inputs": {"logits": LOGITS},
    "labels": LABELS,
    "indices": [0, 1, 2, 3],
    "num_supervised": 4,
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_torchs_one_an_example(smoothing):
    objective, model = Classification(label_smoothing=smoothing), Answers()
    losses = objective(model, BATCH)
    mean = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    assert objective.denominator([BATCH]) == 4 and losses.values.shape == (4,)
    assert torch.allclose(objective.numerator(losses) / 4, mean)
    assert losses.metrics["accuracy"] == 0.5
    halves = [
        {"inputs": {"logits": LOGITS[s]}, "labels": LABELS[s]} for s in (slice(1), slice(1, 4))
    ]
    parts = sum(objective.numerator(objective(model, half)) for half in halves)
    assert torch.allclose(parts / objective.denominator(halves), mean)


def test_accuracy_counts_the_likeliest_and_the_k_likeliest():
    from contextlib import nullcontext

    model = Answers()
    data = SimpleNamespace(loader=lambda *_, **__: [BATCH])
    run = SimpleNamespace(data=data, model=model, tokenizer=None, autocast=nullcontext)
    scores = Accuracy(top_k=2)(run)
    assert scores["accuracy"] == 50 and scores["top2"] == 100
    assert scores["loss"] == pytest.approx(cross_entropy(LOGITS, LABELS).item())
