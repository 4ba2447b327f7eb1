"""ComPEFT beside sparse ternary compression whose scale is searched as ComPEFT's is."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.05


def compeft_over_scaled_stc(run: Path) -> float:
    """Test loss of ComPEFT at 5 % minus that of STC, both scales chosen of eight on held-out rows."""
    from ftcli.papers.compeft.compression import tuned
    from ftcli.reproduce.deltas import opened

    one = opened(run)
    stc = tuned(one.delta, [DENSITY], one.loss, rule="mean")[0]
    return one.loss(tuned(one.delta, [DENSITY], one.loss)[0]) - one.loss(stc)
