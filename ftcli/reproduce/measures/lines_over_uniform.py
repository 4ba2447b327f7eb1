"""LiNeS beside one scale for all blocks, at equal loss on the task."""

from __future__ import annotations

from pathlib import Path

GAMMAS = (0.2, 0.5)
SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def lines_over_uniform(run: Path) -> float:
    """Loss on the pretrained model's own text, LiNeS minus uniform scaling; mean over two gammas.

    The uniform scale's is read off, between neighbouring scales, where its test loss is LiNeS's.
    """
    from ftcli.papers.lines.scaling import scaled, single
    from ftcli.reproduce.deltas import opened

    one = opened(run)
    changes = [one.delta.scale(factor) for factor in SCALES]
    line = [(one.loss(change), one.control_loss(change)) for change in changes]
    found = []
    for gamma in GAMMAS:
        change = scaled(one.delta, *single(gamma))
        found.append(one.control_loss(change) - _at(line, one.loss(change)))
    return sum(found) / len(found)


def _at(line: list[tuple[float, float]], target: float) -> float:
    """The second figure where the first is `target`; the nearest end beyond the line."""
    for (before, low), (after, high) in zip(line, line[1:], strict=False):
        if min(before, after) <= target <= max(before, after):
            share = (target - before) / (after - before)
            return low + share * (high - low)
    return min(line, key=lambda point: abs(point[0] - target))[1]
