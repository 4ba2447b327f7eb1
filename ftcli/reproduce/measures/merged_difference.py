"""Whether merging changes what the trained model computes."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def merged_difference(run: Path) -> float:
    """Largest difference of a training token's loss between the trained model and its merged form."""
    import torch

    from ftcli.reproduce.probe import first_batch, loss_of
    from ftcli.run.run import Run

    trained = Run.from_dir(run)
    batch = first_batch(trained)
    with torch.no_grad():
        before = loss_of(trained, trained.model.eval(), batch)
        after = loss_of(trained, trained.method.merge(trained.model).eval(), batch)
    return (before - after).abs().max().item()
