"""Whether a run without gradients is its start and its log."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def replay_difference(run: Path) -> float:
    """Largest difference between the trained weights and those that the log of (seed, g) leads to.

    Infinite where the log leaves the weights where they started.
    """
    from ftcli.optimizers.replay import replay
    from ftcli.reproduce.probe import again
    from ftcli.run.run import Run

    start, trained = again(run).trained_state(), Run.from_dir(run).trained_state()
    replayed = replay(run).trained_state()
    if all((start[name] == value).all() for name, value in trained.items()):
        return float("inf")
    return max((trained[name] - value).abs().max().item() for name, value in replayed.items())
