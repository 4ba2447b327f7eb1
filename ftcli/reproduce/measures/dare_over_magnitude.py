"""Random pruning with a chosen q beside keeping the largest entries."""

from __future__ import annotations

from pathlib import Path


def dare_over_magnitude(run: Path) -> float:
    """Test loss of DAREx-q minus that of magnitude pruning, both at p = 0.99 on the blocks' matrices."""
    from dataclasses import replace

    from ftcli.deltas.largest import pruned
    from ftcli.papers.darex.pruning import scope
    from ftcli.reproduce.deltas import opened
    from ftcli.reproduce.measures.dare_q import P, dare_q, mean_loss

    one = opened(run)
    inner = {name: one.delta.shapes[name] for name in scope(one.delta)}
    cut = pruned(replace(one.delta, shapes=inner), 1 - P)
    change = one.delta.map(lambda name, own: cut.read(name) if name in inner else own, "largest")
    return mean_loss(run, dare_q(run)) - one.loss(change)
