"""Whether a fresh adapter keeps the function of its base."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def step0_difference(run: Path) -> float:
    """Largest difference of a training token's loss between the fresh adapter and its base."""
    import torch

    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    batch = first_batch(fresh)
    base = fresh.model_source.load()
    with torch.no_grad():
        losses = [loss_of(fresh, model.eval(), batch) for model in (base, fresh.model)]
    return (losses[0] - losses[1]).abs().max().item()
