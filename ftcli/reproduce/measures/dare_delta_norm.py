"""How far a run has moved its model."""

from __future__ import annotations

from pathlib import Path


def dare_delta_norm(run: Path) -> float:
    """Euclidean norm of finetuned minus pretrained."""
    from ftcli.reproduce.deltas import opened

    return opened(run).delta.norm()
