"""The greedy soup beside the best single model."""

from __future__ import annotations

from pathlib import Path


def soup_greedy_gain(run: Path) -> float:
    """Test loss of the greedy soup minus that of the model with the lowest held-out loss."""
    from ftcli.reproduce.measures.soup_pot import test_loss

    return test_loss(run, "greedy") - test_loss(run, "best")
