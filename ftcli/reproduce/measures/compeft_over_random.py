"""Whether it matters which entries' signs are kept."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.05


def compeft_over_random(run: Path) -> float:
    """Test loss with signs of the largest 5 % minus that with as many at random; scales chosen alike."""
    from ftcli.papers.compeft.compression import tuned
    from ftcli.reproduce.deltas import opened

    one = opened(run)
    largest, drawn = (
        one.loss(tuned(one.delta, [DENSITY], one.loss, r)[0]) for r in ("std", "random")
    )
    return largest - drawn
