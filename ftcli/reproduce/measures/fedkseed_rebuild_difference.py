"""Whether a federated run is its initial model and one scalar a seed."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def fedkseed_rebuild_difference(run: Path) -> float:
    """Largest difference between the trained weights and those rebuilt from `sums.bin`.

    Infinite where the scalars leave the weights where they started.
    """
    from ftcli.pipelines.federated.fedkseed import rebuild
    from ftcli.reproduce.probe import again
    from ftcli.run.run import Run

    start, trained = again(run).trained_state(), Run.from_dir(run).trained_state()
    rebuilt = rebuild(run).trained_state()
    if all((start[name] == value).all() for name, value in trained.items()):
        return float("inf")
    return max((trained[name] - value).abs().max().item() for name, value in rebuilt.items())
