"""What the smallest weights of a diffusion model are good for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARE = 0.1
EXACT = True  # of the base alone


def sara_smallest_zeroed(run: Path) -> float:
    """Share by which the base's error on what it knows rises when its smallest 10 % are set to 0."""
    from ftcli.papers.sara.method import below

    def smallest(parameters: dict[str, Any]) -> dict[str, Any]:
        limit = below(parameters, SHARE)
        return {name: p.abs() < limit for name, p in parameters.items()}

    return rise(run, smallest)


def rise(run: Path, chosen: Callable[[dict[str, Any]], dict[str, Any]]) -> float:
    """Share by which the error of the run's base on the split `test` rises without some weights.

    Args:
        chosen: parameters by name -> masks of those that are set to 0.
    """
    import torch

    from ftcli.reproduce.probe import again

    fresh = again(run)
    score = fresh.evaluators["original"]
    before = score(fresh)["original"]
    base = fresh.model_source.load().to(fresh.accelerator.device)
    with torch.no_grad():
        for name, mask in chosen(dict(base.named_parameters())).items():
            base.get_parameter(name)[mask] = 0.0
    fresh.model = base
    return float(score(fresh)["original"] / before - 1)
