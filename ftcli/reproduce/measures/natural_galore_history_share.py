"""What the history of Natural GaLore costs on RoBERTa-base, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True
RANK, HISTORY = 4, 20  # the paper's on GLUE, and its code's


def natural_galore_history_share(_run: Path) -> float:
    """Values of the history over those of the two moments, of all projected matrices.

    The optimizer takes one step on stand-ins of every different shape among the linears of the blocks.
    """
    import torch
    from transformers import AutoModel, RobertaConfig

    from ftcli.models.anatomy import Anatomy
    from ftcli.papers.natural_galore.optimizer import GaLore

    size = RobertaConfig()
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
    weights: list[Any] = [linear.module.weight for linear in Anatomy(base).block_linears]
    shapes = [tuple(weight.shape) for weight in weights]
    history, moments = 0, 0
    for shape in set(shapes):
        weight: Any = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        named = [("layer.weight", weight)]
        how = GaLore(named, rank=RANK, transform="natural", history=HISTORY)
        how.step()
        state, times = how.state[weight], shapes.count(shape)
        history += times * state["history"].numel()
        moments += times * (state["exp_avg"].numel() + state["exp_avg_sq"].numel())
    return history / moments
