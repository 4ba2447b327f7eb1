"""DAREx with a q a layer that follows from a bound, without labels, beside DARE."""

from __future__ import annotations

from functools import cache
from pathlib import Path

ROWS = 8  # training rows whose outputs choose eta
ETAS = (0.1, 0.7, 0.1)  # lowest, highest, step of the search


def dare_analytic_gain(run: Path) -> float:
    """Test loss at the analytic q minus that at 1 - p, p = 0.99, mean over four masks."""
    from ftcli.reproduce.measures.dare_q import P, mean_loss

    return analytic_loss(run) - mean_loss(run, 1 - P)


@cache
def analytic_loss(run: Path) -> float:
    """Test loss at the analytic q, mean over four masks; eta moves the finetuned outputs least."""
    from ftcli.papers.darex.calibration import OutputChange, analytic, mean_inputs
    from ftcli.papers.darex.pruning import search
    from ftcli.reproduce.deltas import opened
    from ftcli.reproduce.measures.dare_q import SEEDS, P, pruned

    one = opened(run)
    finetuned = one.delta.apply(one.base)
    inputs = mean_inputs(one.bench, finetuned)
    change = OutputChange(one.bench, finetuned, ROWS)

    def moved(eta: float) -> float:
        return change(pruned(one, analytic(one.delta, inputs, P, eta), 0).apply(one.base))

    eta, _ = search(moved, lambda a, b: a < b, *ETAS)
    q = analytic(one.delta, inputs, P, eta)
    return sum(one.loss(pruned(one, q, seed)) for seed in SEEDS) / len(SEEDS)
