"""DARE at p = 0.99."""

from __future__ import annotations

from pathlib import Path


def dare_loss(run: Path) -> float:
    """Test loss with 99 % of the entries dropped and the rest times 100, mean over four masks."""
    from ftcli.reproduce.measures.dare_q import P, mean_loss

    return mean_loss(run, 1 - P)
