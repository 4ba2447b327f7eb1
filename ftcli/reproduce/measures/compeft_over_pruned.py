"""ComPEFT beside keeping the same entries with their values."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.05


def compeft_over_pruned(run: Path) -> float:
    """Test loss of ComPEFT at 5 %, its scale chosen on held-out rows, minus that of pruning alone."""
    from ftcli.deltas.largest import pruned
    from ftcli.papers.compeft.compression import tuned
    from ftcli.reproduce.deltas import opened

    one = opened(run)
    return one.loss(tuned(one.delta, [DENSITY], one.loss)[0]) - one.loss(pruned(one.delta, DENSITY))
