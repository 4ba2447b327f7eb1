"""Whether weights that PEQA has trained are integers times their scales still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def peqa_integer_residue(run: Path) -> float:
    """Largest distance of a merged weight, divided by its trained scale, from an integer."""
    import torch

    from ftcli.papers.peqa.method import PeqaLinear
    from ftcli.run.build import open_run

    model = open_run(run).model
    worst = 0.0
    for layer in model.modules():
        if isinstance(layer, PeqaLinear):
            base: Any = layer.base_layer
            scale = base.scale + layer.peqa_scale["default"].detach().view_as(base.scale)
            layer.merge()
            merged = base.plain().weight.detach().float()
            ratio = (merged.T if base.transposed else merged).unflatten(1, (scale.shape[1], -1))
            ratio = ratio / scale.unsqueeze(-1)
            worst = max(worst, (ratio - torch.round(ratio)).abs().max().item())
    return worst
