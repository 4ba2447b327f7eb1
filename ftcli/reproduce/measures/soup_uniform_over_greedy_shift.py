"""The mean of all models beside the greedy soup, under a shift of the data."""

from __future__ import annotations

from pathlib import Path


def soup_uniform_over_greedy_shift(run: Path) -> float:
    """Test loss of the uniform soup minus the greedy one's."""
    from ftcli.reproduce.measures.soup_pot import SHIFT, loss

    return loss(run, "uniform", SHIFT) - loss(run, "greedy", SHIFT)
