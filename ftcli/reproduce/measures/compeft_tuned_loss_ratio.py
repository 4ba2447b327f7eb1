"""What compressing an adapter costs, density and scale chosen on other held-out rows."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

DENSITIES = (0.2, 0.3, 0.5)


def compeft_tuned_loss_ratio(run: Path) -> float:
    """Test loss with the ternary adapter over that with the adapter as trained."""
    from ftcli.reproduce.deltas import opened

    return opened(run).loss(chosen(run)[0]) / opened(run).trained


@cache
def chosen(run: Path) -> Any:
    """The compressed delta, and its ternary form."""
    from ftcli.papers.compeft.compression import tuned
    from ftcli.reproduce.deltas import opened

    return tuned(opened(run).delta, DENSITIES, opened(run).loss)
