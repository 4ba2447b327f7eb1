"""Measurements of the natural_galore recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

RANK, HISTORY = 4, 20  # those of the paper on GLUE and of its code


@measure(exact=True)
def galore_state_excess(run: Path) -> float:
    """Values in the optimizer's state minus those of the formula for a one-sided projector of rank r.

    The formula counts, for a matrix of the blocks with sides a <= b, r a values of the projector, 2 r b
    of the moments, and s r b of a history of s gradients (Natural GaLore, arXiv 2410.16029); for every
    other tensor two moments.
    """
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    options = fresh.config["optimizer"]
    vectors = 2 + (options["history"] if options.get("transform") == "natural" else 0)
    model = fresh.model_source.build_meta_model()
    projected = {id(linear.module.weight) for linear in Anatomy(model).block_linears}
    formula = 0
    for weight in model.parameters():
        if id(weight) not in projected:
            formula += 2 * weight.numel()
            continue
        small, large = sorted(weight.shape)
        rank = min(options["rank"], small)
        formula += rank * (small + vectors * large)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return float(result["optimizer_state_elements"] - formula)


@measure(exact=True)
def natural_galore_history_share(_run: Path) -> float:
    """Values of the history over those of the two moments, over all projected matrices of RoBERTa-base.

    The optimizer takes one step on random gradients for each shape among the linears of the blocks.
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
        optimizer = GaLore(named, rank=RANK, transform="natural", history=HISTORY)
        optimizer.step()
        state, times = optimizer.state[weight], shapes.count(shape)
        history += times * state["history"].numel()
        moments += times * (state["exp_avg"].numel() + state["exp_avg_sq"].numel())
    return history / moments
