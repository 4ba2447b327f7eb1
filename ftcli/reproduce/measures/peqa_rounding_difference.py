"""Whether PEQA begins as the model whose linears are rounded to nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def peqa_rounding_difference(run: Path) -> float:
    """Largest difference of a training token's loss between the fresh method and the base with
    each linear of its blocks replaced by scale * integers of the same bits, in nats."""
    import torch

    from ftcli.models.anatomy import Anatomy
    from ftcli.papers.peqa.packed import quantise
    from ftcli.reproduce.probe import again, first_batch, loss_of

    fresh = again(run)
    config: Any = fresh.model.peft_config["default"]
    batch, base = first_batch(fresh), fresh.model_source.load()
    for linear in Anatomy(base).block_linears:
        weight: Any = linear.module.weight
        rounded = quantise(weight, config.bits, config.group_size, config.search).weight()
        weight.data = rounded.to(weight.dtype)
    with torch.no_grad():
        losses = [loss_of(fresh, model.eval(), batch) for model in (base, fresh.model)]
    return (losses[0] - losses[1]).abs().max().item()
