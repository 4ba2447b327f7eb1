"""What a layer's output loses when its weight is cut: CorDA's components against plain ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True
KEPT = (0.25, 0.5, 0.75)  # shares of the components that stay


def context_truncation_ratio(run: Path) -> float:
    """||(W - W_k) X||_F of the context-oriented decomposition over that of the plain SVD.

    X is what the context puts into the layer; the geometric mean over layers and k. Below 1 the
    oriented components keep more of what the context uses (CorDA, arXiv 2406.05223, section 3).
    """
    import math

    import torch

    from ftcli.methods.shifted import lora_layers, weight_of
    from ftcli.papers.corda.method import oriented
    from ftcli.reproduce.probe import again

    fresh = again(run)
    covariances = fresh.method.covariances(fresh)
    logarithms = []
    for name, layer in lora_layers(fresh.model).items():
        weight, covariance = weight_of(layer).detach().float(), covariances[name]
        parts = oriented(weight, covariance, fresh.method.damping)
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        for share in KEPT:
            k = round(share * len(values))
            errors = [
                _error(weight - one[:, :k] * middle[:k] @ other[:k], covariance)
                for one, middle, other in (parts, (left, values, right))
            ]
            logarithms.append(math.log(errors[0] / errors[1]))
    return math.exp(sum(logarithms) / len(logarithms))


def _error(rest: Any, covariance: Any) -> float:
    """||R X||_F = sqrt(trace(R X X^T R^T))."""
    return float((rest @ covariance * rest).sum().clamp(min=1e-30).sqrt())
