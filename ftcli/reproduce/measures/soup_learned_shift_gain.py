"""The learned soup under a shift of the data."""

from __future__ import annotations

from pathlib import Path


def soup_learned_shift_gain(run: Path) -> float:
    """Test loss of the soup with learned weights a block minus the best model's."""
    from ftcli.reproduce.measures.soup_pot import SHIFT, loss

    return loss(run, "learned", SHIFT) - loss(run, "best", SHIFT)
