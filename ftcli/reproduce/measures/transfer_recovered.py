"""How much of finetuning a transfer gives for nothing."""

from __future__ import annotations

from pathlib import Path


def transfer_recovered(run: Path) -> float:
    """Fall of the test loss by transfer over the fall by finetuning this run's base itself."""
    from ftcli.reproduce.deltas import opened
    from ftcli.reproduce.measures.transfer_gain import losses

    bare, moved = losses(run)
    return (bare - moved) / (bare - opened(run).trained)
