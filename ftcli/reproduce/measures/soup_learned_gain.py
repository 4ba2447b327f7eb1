"""The learned soup beside the best single model."""

from __future__ import annotations

from pathlib import Path


def soup_learned_gain(run: Path) -> float:
    """Test loss of the soup with learned weights a block minus that of the best model on held-out rows."""
    from ftcli.reproduce.measures.soup_pot import test_loss

    return test_loss(run, "learned") - test_loss(run, "best")
