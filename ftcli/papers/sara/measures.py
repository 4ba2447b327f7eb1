"""Measurements of the sara recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

SHARE = 0.1


@measure
def sara_balance(run: Path) -> float:
    """Relative decrease of the target's denoising error minus the relative increase of the original's."""
    from ftcli.core.run_dir import RunDir

    result = RunDir.open(run).result()
    before, after = result["metrics_before"], result["metrics"]
    change = {
        name: after[f"eval.{name}"] / before[f"eval.{name}"] - 1 for name in ("loss", "original")
    }
    return -change["loss"] - change["original"]


@measure(exact=True)
def sara_outside_moved(run: Path) -> float:
    """Number of entries of the base with |w| >= threshold that training changed by any bit."""
    from ftcli.reproduce.probe import rebuild_run
    from ftcli.run.build import open_run

    trained = open_run(run)
    limit = trained.method.describe()["threshold"]
    after = dict(trained.method.merge(trained.model).named_parameters())
    base = dict(rebuild_run(run).model_source.load().named_parameters())
    moved = [((after[n] != p) & (p.abs() >= limit)).sum() for n, p in base.items()]
    return float(sum(int(count) for count in moved))


@measure(exact=True)
def sara_smallest_zeroed(run: Path) -> float:
    """Relative increase of the base's error on the split `test` when its smallest 10 % are set to 0."""
    from ftcli.papers.sara.method import find_threshold

    def mask_smallest(parameters: dict[str, Any]) -> dict[str, Any]:
        limit = find_threshold(parameters, SHARE)
        return {name: p.abs() < limit for name, p in parameters.items()}

    return error_increase(run, mask_smallest)


def error_increase(run: Path, chosen: Callable[[dict[str, Any]], dict[str, Any]]) -> float:
    """Return the relative increase of the base's error on the split `test` without some weights.

    Args:
        chosen: parameters by name -> masks of the entries that are set to 0.
    """
    import torch

    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    score = fresh.evaluators["original"]
    before = score(fresh)["original"]
    base = fresh.model_source.load().to(fresh.accelerator.device)
    with torch.no_grad():
        for name, mask in chosen(dict(base.named_parameters())).items():
            base.get_parameter(name)[mask] = 0.0
    fresh.model = base
    return float(score(fresh)["original"] / before - 1)


@measure
def sara_random_zeroed(run: Path) -> float:
    """Relative increase of the base's error on the split `test` when a random 10 % are set to 0."""
    import torch

    from ftcli.reproduce.probe import rebuild_run

    generator = torch.Generator().manual_seed(rebuild_run(run).seed)

    def draw_masks(parameters: dict[str, Any]) -> dict[str, Any]:
        return {
            name: (torch.rand(p.shape, generator=generator) < SHARE).to(p.device)
            for name, p in parameters.items()
        }

    return error_increase(run, draw_masks)


@measure
def sara_rank(run: Path) -> float:
    """Effective rank exp(-sum p log p), p being the normalised singular values (Roy and Vetterli 2007).

    The mean over the matrices of trained entries among which the nuclear penalty draws.
    """
    import torch

    from ftcli.papers.sara.entries import find_entries
    from ftcli.run.build import open_run

    trained = open_run(run)
    min_dim = (trained.config.get("penalty") or {}).get("nuclear", {}).get("min_dim", 31)
    ranks = []
    for entries in find_entries(trained.model).values():
        if len(entries.shape) == 2 and min(entries.shape) > min_dim:
            values = torch.linalg.svdvals(entries.matrix().detach().double())
            share = values / values.sum()
            ranks.append(torch.special.entr(share).sum().exp().item())
    return sum(ranks) / len(ranks)
