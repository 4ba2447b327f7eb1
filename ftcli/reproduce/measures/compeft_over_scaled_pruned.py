"""ComPEFT beside the same entries with their values, times a scale that is searched as ComPEFT's is."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.05
SCALES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def compeft_over_scaled_pruned(run: Path) -> float:
    """Test loss of ComPEFT at 5 % minus that of pruning, both scales chosen of eight on held-out rows."""
    from ftcli.papers.compeft.compression import pruned, tuned
    from ftcli.reproduce.deltas import VALIDATION, least, opened

    one = opened(run)
    kept = pruned(one.delta, DENSITY)
    scale = least(lambda value: one.loss(kept.scale(value), VALIDATION), SCALES)
    ternary = tuned(one.delta, [DENSITY], one.loss)[0]
    return one.loss(ternary) - one.loss(kept.scale(scale))
