"""Whether an initialisation that moves a part of the base into the adapter keeps the function."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def shift_difference(run: Path) -> float:
    """Largest difference of a training token's loss between the base and the method after setup."""
    import torch

    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    fresh.method.setup(fresh)
    batch = first_batch(fresh)
    base = fresh.model_source.load()
    with torch.no_grad():
        losses = [loss_of(fresh, model.eval(), batch) for model in (base, fresh.model)]
    return (losses[0] - losses[1]).abs().max().item()
