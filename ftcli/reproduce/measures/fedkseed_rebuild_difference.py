"""Whether a federated run is its initial model and one scalar a seed."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def fedkseed_rebuild_difference(run: Path) -> float:
    """Largest difference between the trained weights and those rebuilt from `sums.bin`."""
    from ftcli.papers.fedkseed.pipeline import rebuild
    from ftcli.reproduce.probe import distance_to

    return distance_to(run, rebuild(run))
