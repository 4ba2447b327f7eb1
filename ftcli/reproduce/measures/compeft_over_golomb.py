"""How far the bytes on disk are from the formula of the Golomb code."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.2


def compeft_over_golomb(run: Path) -> float:
    """Bytes of the ternary file, header included, over d * k * (gap bits + 1) / 8, at 20 %."""
    from ftcli.deltas import ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import opened

    coded = compeft.compress(opened(run).delta, DENSITY)[1]
    return len(ternary.write(coded)) * 8 / (coded.entries * ternary.golomb_rate(DENSITY))
