"""What compressing an adapter costs, its scale chosen on other held-out rows."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.2


def compeft_loss_ratio(run: Path) -> float:
    """Test loss with the ternary adapter at 20 % over that with the adapter as trained."""
    from ftcli.papers.compeft.compression import tuned
    from ftcli.reproduce.deltas import opened

    one = opened(run)
    return one.loss(tuned(one.delta, [DENSITY], one.loss)[0]) / one.trained
