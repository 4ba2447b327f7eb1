"""The greedy soup beside the mean of all models."""

from __future__ import annotations

from pathlib import Path


def soup_greedy_over_uniform(run: Path) -> float:
    """Loss on fresh held-out rows, the greedy soup's minus the uniform one's."""
    from ftcli.reproduce.measures.soup_pot import FRESH, loss

    return loss(run, "greedy", FRESH) - loss(run, "uniform", FRESH)
