"""The greedy soup beside the mean of all models."""

from __future__ import annotations

from pathlib import Path


def soup_greedy_over_uniform(run: Path) -> float:
    """Test loss of the greedy soup minus that of the uniform one."""
    from ftcli.reproduce.measures.soup_pot import test_loss

    return test_loss(run, "greedy") - test_loss(run, "uniform")
