"""Optimizer state beyond GaLore's formula."""

from __future__ import annotations

import json
from pathlib import Path

EXACT = True


def galore_state_excess(run: Path) -> float:
    """Values in the optimizer's state minus the formula, one-sided projector of rank r.

    A matrix of the blocks with sides a <= b: r a of the projector, 2 r b of the moments, and s r b of a
    history of s gradients (Natural GaLore, arXiv 2410.16029); every other tensor: two moments.
    """
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import again

    fresh = again(run)
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
