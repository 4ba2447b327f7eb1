"""Dynamic fine-tuning: cross-entropy whose tokens weigh by their own probability (arXiv 2508.05629)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ftcli.objectives.causal_lm import NextTokenPrediction


@dataclass
class DFT(NextTokenPrediction):
    """Each token's loss times its probability, through which no gradient passes.

    -sg(p_t) log p_t (Wu et al. 2025, arXiv 2508.05629, equation 9). The gradient of cross-entropy has
    the weight 1 / p_t of a policy gradient with a sparse reward; the factor takes it out, so that
    tokens which the model finds unlikely no longer dominate a step.
    """

    def training_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return losses [n] of logits [n, V] in float32 and labels [n]; p_t is without label smoothing."""
        probabilities = (
            logits.detach().log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1).exp()
        )
        return probabilities * super().training_losses(logits, labels)
