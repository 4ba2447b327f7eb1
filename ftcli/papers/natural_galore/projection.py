"""Low-rank projectors of a gradient: when they are refreshed, and the way there and back.

A projector is kept in the optimizer's state of the parameter as `left` [n, r] and `right` [m, r], one
of them or both, with orthonormal columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAMES = ("svd", "tucker")


def refresh(state: dict[str, Any], gradient: Tensor, rank: int, gap: int, kind: str) -> bool:
    """Take the projector from this gradient [n, m] if that is due; whether it was.

    Nothing can be learned from a gradient that is zero (a fresh adapter's) or not finite: the next
    step is due again, and meanwhile the old projector stays, or one of unit vectors.
    """
    due = state.get("age", gap) >= gap
    usable = due and bool(gradient.any()) and bool(torch.isfinite(gradient).all())
    if usable:
        state |= {"age": 0, **_fitted(gradient, rank, kind)}
    elif "left" not in state and "right" not in state:
        state |= {"age": gap, **_sides(*_units(gradient), gradient, rank, kind)}
    state["age"] += 1
    return usable


def project(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """[n, m] -> P^T G, G P, or U^T G V."""
    if "left" in state:
        gradient = state["left"].T @ gradient
    return gradient @ state["right"] if "right" in state else gradient


def lift(state: dict[str, Any], low: Tensor) -> Tensor:
    """Back to [n, m]."""
    if "left" in state:
        low = state["left"] @ low
    return low @ state["right"].T if "right" in state else low


def _fitted(gradient: Tensor, rank: int, kind: str) -> dict[str, Tensor]:
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    return _sides(left, right.T, gradient, rank, kind)


def _units(gradient: Tensor) -> tuple[Tensor, Tensor]:
    n, m = gradient.shape
    square = torch.eye(max(n, m), min(n, m), device=gradient.device)
    return square[:n], square[:m]


def _sides(
    left: Tensor, right: Tensor, gradient: Tensor, rank: int, kind: str
) -> dict[str, Tensor]:
    """The columns that are kept: of both sides, or of the smaller one (the right one of a square)."""
    n, m = gradient.shape
    kept = {}
    if kind == "tucker" or n < m:
        kept["left"] = left[:, :rank].to(gradient.dtype, copy=True).contiguous()
    if kind == "tucker" or n >= m:
        kept["right"] = right[:, :rank].to(gradient.dtype, copy=True).contiguous()
    return kept
