"""Measurements of the natural_galore recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

RANK, HISTORY = 4, 20  # the paper's on GLUE, and its code's


@measure(exact=True)
def galore_state_excess(run: Path) -> float:
    """Values in the optimizer's state minus the formula, one-sided projector of rank r.

    A matrix of the blocks with sides a <= b: r a of the projector, 2 r b of the moments, and s r b of a
    history of s gradients (Natural GaLore, arXiv 2410.16029); every other tensor: two moments.
    """
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    how = fresh.config["optimizer"]
    kept = 2 + (how["history"] if how.get("transform") == "natural" else 0)
    model = fresh.model_source.meta()
    projected = {id(linear.module.weight) for linear in Anatomy(model).block_linears}
    formula = 0
    for weight in model.parameters():
        if id(weight) not in projected:
            formula += 2 * weight.numel()
            continue
        small, large = sorted(weight.shape)
        rank = min(how["rank"], small)
        formula += rank * (small + kept * large)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return float(result["optimizer_state_elements"] - formula)


@measure(exact=True)
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
