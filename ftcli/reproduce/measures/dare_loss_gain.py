"""DAREx-q beside DARE."""

from __future__ import annotations

from pathlib import Path


def dare_loss_gain(run: Path) -> float:
    """Test loss at the q chosen on held-out rows minus that at 1 - p, p = 0.99, mean over four masks."""
    from ftcli.reproduce.measures.dare_q import P, dare_q, mean_loss

    return mean_loss(run, dare_q(run)) - mean_loss(run, 1 - P)
