"""DAREx's analytic q, which sees no label, beside the q that held-out losses choose."""

from __future__ import annotations

from pathlib import Path


def dare_analytic_gap(run: Path) -> float:
    """Test loss at the analytic q minus that at the validated q, p = 0.99, mean over four masks."""
    from ftcli.reproduce.measures.dare_analytic_gain import analytic_loss
    from ftcli.reproduce.measures.dare_q import dare_q, mean_loss

    return analytic_loss(run) - mean_loss(run, dare_q(run))
