"""Whether a run without gradients is its start and its log."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def replay_difference(run: Path) -> float:
    """Largest difference between the trained weights and those that the log of (seed, g) leads to."""
    from ftcli.reproduce.probe import distance_to
    from ftcli.run.replay import replay

    return distance_to(run, replay(run))
