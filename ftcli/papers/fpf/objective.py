"""Cross-entropy, and the distance to the logits that replayed examples had before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ftcli.objectives.base import Losses
from ftcli.objectives.classification import Classification


@dataclass
class ReplayClassification(Classification):
    """Cross-entropy of all examples, plus kd_weight * mean_c (h_c - h'_c)^2 for replayed ones.

    h' are the logits of an example when it was last trained on in the stream, as dark experience
    replay keeps them (Buzzega et al. 2020, arXiv 2004.07211). A batch has them under `stored_logits`,
    [n, classes], for its last n examples.
    """

    kd_weight: float = 0.0  # weight of the distance to stored logits

    def __post_init__(self) -> None:
        self.logits: Tensor | None = None  # [B, classes] of the last batch, for the buffer

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [B]; metrics: `accuracy` of the batch, and `kd` where there are stored logits."""
        losses = super().__call__(model, batch)
        logits = losses.hidden
        assert logits is not None
        self.logits = logits.detach()
        stored = batch.get("stored_logits")
        if stored is None:
            return losses
        distance = (logits[-len(stored) :] - stored.to(logits.device)).square().mean(1)
        losses.values[-len(stored) :] += self.kd_weight * distance
        losses.metrics["kd"] = distance.mean()
        return losses
