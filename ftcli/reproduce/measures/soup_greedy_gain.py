"""The greedy soup beside the best single model."""

from __future__ import annotations

from pathlib import Path


def soup_greedy_gain(run: Path) -> float:
    """Loss on fresh held-out rows, the soup's minus the best model's on the rows that choose."""
    from ftcli.reproduce.measures.soup_pot import FRESH, loss

    return loss(run, "greedy", FRESH) - loss(run, "best", FRESH)
