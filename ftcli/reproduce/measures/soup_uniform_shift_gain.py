"""The mean of all models under a shift of the data."""

from __future__ import annotations

from pathlib import Path


def soup_uniform_shift_gain(run: Path) -> float:
    """Test loss (meaning representations of other kinds) of the mean minus the best model's."""
    from ftcli.reproduce.measures.soup_pot import SHIFT, loss

    return loss(run, "uniform", SHIFT) - loss(run, "best", SHIFT)
