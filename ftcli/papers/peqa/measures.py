"""Measurements of the peqa recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure


@measure(exact=True)
def peqa_integer_residue(run: Path) -> float:
    """Largest distance from an integer of a merged weight divided by its trained scale."""
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
            merged = base.to_plain().weight.detach().float()
            ratio = (merged.T if base.transposed else merged).unflatten(1, (scale.shape[1], -1))
            ratio = ratio / scale.unsqueeze(-1)
            worst = max(worst, (ratio - torch.round(ratio)).abs().max().item())
    return worst


@measure(exact=True)
def peqa_rounding_difference(run: Path) -> float:
    """Largest difference in a training token's loss, in nats, between the untrained method and the base
    whose block linears were rounded to scale * integers of the same bits.
    """
    import torch

    from ftcli.models.anatomy import Anatomy
    from ftcli.papers.peqa.packed import quantise
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    config: Any = fresh.model.peft_config["default"]
    batch, base = first_batch(fresh), fresh.model_source.load()
    for linear in Anatomy(base).block_linears:
        weight: Any = linear.module.weight
        rounded = quantise(weight, config.bits, config.group_size, config.search).weight()
        weight.data = rounded.to(weight.dtype)
    with torch.no_grad():
        losses = [loss_of(fresh, model.eval(), batch) for model in (base, fresh.model)]
    return (losses[0] - losses[1]).abs().max().item()
