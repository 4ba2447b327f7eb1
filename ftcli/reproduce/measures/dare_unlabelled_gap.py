"""DAREx-q without labels beside DAREx-q with them."""

from __future__ import annotations

from pathlib import Path

ROWS = 8


def dare_unlabelled_gap(run: Path) -> float:
    """Test loss at the q that moves the finetuned model's outputs least, minus that at the validated q."""
    from ftcli.papers.darex.calibration import OutputChange
    from ftcli.papers.darex.pruning import search
    from ftcli.reproduce.deltas import opened
    from ftcli.reproduce.measures.dare_q import HIGH, LOW, STEP, dare_q, mean_loss, pruned

    one = opened(run)
    change = OutputChange(one.bench, one.delta.apply(one.base), ROWS)
    q, _ = search(
        lambda q: change(pruned(one, q, 0).apply(one.base)), lambda a, b: a < b, LOW, HIGH, STEP
    )
    return mean_loss(run, q) - mean_loss(run, dare_q(run))
