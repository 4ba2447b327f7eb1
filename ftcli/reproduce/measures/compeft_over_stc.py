"""ComPEFT beside sparse ternary compression, whose scale is the mean magnitude of what is kept."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.05


def compeft_over_stc(run: Path) -> float:
    """Test loss of ComPEFT at 5 %, its scale chosen on held-out rows, minus that of STC."""
    from ftcli.papers.compeft.compression import compress, tuned
    from ftcli.reproduce.deltas import opened

    one = opened(run)
    stc = compress(one.delta, DENSITY, rule="mean")[0]
    return one.loss(tuned(one.delta, [DENSITY], one.loss)[0]) - one.loss(stc)
