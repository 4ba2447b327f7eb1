"""The gamma of LiNeS that held-out rows choose."""

from __future__ import annotations

from functools import cache
from pathlib import Path

GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@cache
def lines_gamma(run: Path) -> float:
    """Least 2 * target + control, held-out losses over the finetuned and the pretrained model's own."""
    from ftcli.papers.lines.scaling import scaled, search, single
    from ftcli.reproduce.deltas import VALIDATION, opened

    one = opened(run)

    def losses(gamma: float) -> tuple[float, float]:
        change = scaled(one.delta, *single(gamma))
        return one.loss(change, VALIDATION), one.control_loss(change)

    return search(
        losses,
        finetuned=one.loss(one.delta, VALIDATION),
        pretrained=one.control_loss(one.delta.scale(0.0)),
        grid=GRID,
    )[0]
