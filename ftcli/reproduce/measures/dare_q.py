"""The q of DAREx that held-out rows choose at p = 0.99."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

P, LOW, HIGH, STEP = 0.99, 0.05, 1.0, 0.1
SEEDS = (0, 1, 2, 3)  # of masks


@cache
def dare_q(run: Path) -> float:
    """Coarse and fine search by held-out loss, one mask."""
    from ftcli.papers.darex.pruning import search
    from ftcli.reproduce.deltas import VALIDATION, opened

    one = opened(run)
    return search(
        lambda q: one.loss(pruned(one, q, 0), VALIDATION), lambda a, b: a < b, LOW, HIGH, STEP
    )[0]


def pruned(one: Any, q: float | dict[str, float], seed: int) -> Any:
    """The run's delta with 99 % of its blocks' entries dropped."""
    from ftcli.papers.darex.pruning import dropped, scope

    return dropped(one.delta, P, q, seed, scope(one.delta))


@cache
def mean_loss(run: Path, q: float) -> float:
    """Test loss, mean over four masks."""
    from ftcli.reproduce.deltas import opened

    one = opened(run)
    return sum(one.loss(pruned(one, q, seed)) for seed in SEEDS) / len(SEEDS)
