"""Measurements of the welore recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Tensor


@measure(exact=True)
def welore_rank_reduction(run: Path) -> float:
    """Share of the ranks of all targets that was removed; matrices that stayed dense have lost none."""
    fresh = _fresh(run)
    ranks = fresh.peft_config["default"].ranks
    sizes = {name: min(weight.shape) for name, weight in _weights(run, list(ranks)).items()}
    return 1 - sum(ranks.values()) / sum(sizes.values())


@measure(exact=True)
def welore_factored_share(run: Path) -> float:
    """Share of the targets that are factored."""
    fresh = _fresh(run)
    ranks = fresh.peft_config["default"].ranks
    sizes = {name: min(weight.shape) for name, weight in _weights(run, list(ranks)).items()}
    return sum(ranks[name] < size for name, size in sizes.items()) / len(sizes)


@measure(exact=True)
def welore_factor_error(run: Path) -> float:
    """Largest | ||W - U V|| / sqrt(sum of the removed s^2) - 1 | before training; 0: none is nearer (Eckart-Young)."""
    import torch

    from ftcli.papers.welore.method import welore_layers

    layers = welore_layers(_fresh(run).get_base_model())
    weights, worst = _weights(run, list(layers)), 0.0
    for name, layer in layers.items():
        rank, weight = layer.kept["default"], weights[name].double()
        removed = torch.linalg.svdvals(weight)[rank:]
        if len(removed):
            error = (weight - layer.compute_weight("default").double()).norm()
            worst = max(worst, abs(float(error / removed.norm()) - 1))
    return worst


@measure(exact=True)
def welore_size_share(run: Path) -> float:
    """Parameters of the factored matrices in the model as it trains, as a share of those of the base.

    Whatever the layers still hold of the dense weights is counted.
    """
    from ftcli.papers.welore.method import welore_layers

    layers = {
        n: m for n, m in welore_layers(_fresh(run).get_base_model()).items() if m.welore_U.keys()
    }
    dense = sum(weight.numel() for weight in _weights(run, list(layers)).values())
    matrices = [
        p for layer in layers.values() for p in layer.parameters() if p.dim() != 1 or not p.numel()
    ]
    return sum(p.numel() for p in matrices) / dense


def _fresh(run: Path) -> Any:
    """Return the model as it is before training."""
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    return fresh.model


def _weights(run: Path, names: list[str]) -> dict[str, Tensor]:
    """Return name -> weight [out, in] of the base."""
    from transformers.pytorch_utils import Conv1D

    from ftcli.reproduce.probe import rebuild_run

    base = rebuild_run(run).model_source.load()
    layers: dict[str, Any] = {name: base.get_submodule(name) for name in names}
    return {
        name: layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach()
        for name, layer in layers.items()
    }
