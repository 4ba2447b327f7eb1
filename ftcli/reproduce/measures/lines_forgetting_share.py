"""How much of the forgetting LiNeS leaves."""

from __future__ import annotations

from pathlib import Path


def lines_forgetting_share(run: Path) -> float:
    """Rise of the loss on the pretrained model's own text at the chosen gamma, over the finetuned's rise."""
    from ftcli.papers.lines.scaling import scaled, single
    from ftcli.reproduce.deltas import opened
    from ftcli.reproduce.measures.lines_gamma import lines_gamma

    one = opened(run)
    zero, full = (one.control_loss(one.delta.scale(factor)) for factor in (0.0, 1.0))
    left = one.control_loss(scaled(one.delta, *single(lines_gamma(run))))
    return (left - zero) / (full - zero)
