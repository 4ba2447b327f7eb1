"""What LiNeS costs on the task it was finetuned on."""

from __future__ import annotations

from pathlib import Path


def lines_target_ratio(run: Path) -> float:
    """Test loss at the gamma chosen on held-out rows over that of the finetuned model."""
    from ftcli.papers.lines.scaling import scaled, single
    from ftcli.reproduce.deltas import opened
    from ftcli.reproduce.measures.lines_gamma import lines_gamma

    one = opened(run)
    return one.loss(scaled(one.delta, *single(lines_gamma(run)))) / one.trained
