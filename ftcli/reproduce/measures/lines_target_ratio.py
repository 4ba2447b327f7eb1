"""What LiNeS costs on the task it was finetuned on."""

from __future__ import annotations

from pathlib import Path


def lines_target_ratio(run: Path) -> float:
    """Test loss at the gamma chosen on held-out rows over that of the finetuned model."""
    from ftcli.deltas.lines import scaled, single
    from ftcli.deltas.measuring import opened
    from ftcli.reproduce.measures.lines_gamma import lines_gamma

    one = opened(run)
    return one.loss(scaled(one.delta, *single(lines_gamma(run)))) / one.trained
