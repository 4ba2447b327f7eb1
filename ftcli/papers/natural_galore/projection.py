"""Low-rank projectors of a gradient: refreshing them, projecting, and lifting back.

A projector is stored in the optimizer's state of the parameter as `left` [n, r] and `right` [m, r], one
of them or both, with orthonormal columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAMES = ("svd", "tucker")


def refresh_projector(
    state: dict[str, Any], gradient: Tensor, rank: int, gap: int, kind: str
) -> bool:
    """Compute the projector from this gradient [n, m] if that is due; returns whether it was computed.

    A gradient that is zero (a fresh adapter's) or not finite gives no projector: the old one stays, or
    one of unit vectors, and the next step tries again.
    """
    due = state.get("age", gap) >= gap
    usable = due and bool(gradient.any()) and bool(torch.isfinite(gradient).all())
    if usable:
        state |= {"age": 0, **_fit_projector(gradient, rank, kind)}
    elif "left" not in state and "right" not in state:
        state |= {"age": gap, **_select_columns(*_unit_vectors(gradient), gradient, rank, kind)}
    state["age"] += 1
    return usable


def project(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """Project G [n, m] to P^T G, G P, or U^T G V."""
    if "left" in state:
        gradient = state["left"].T @ gradient
    return gradient @ state["right"] if "right" in state else gradient


def lift(state: dict[str, Any], low: Tensor) -> Tensor:
    """Map a projected tensor back to [n, m]."""
    if "left" in state:
        low = state["left"] @ low
    return low @ state["right"].T if "right" in state else low


def _fit_projector(gradient: Tensor, rank: int, kind: str) -> dict[str, Tensor]:
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    return _select_columns(left, right.T, gradient, rank, kind)


def _unit_vectors(gradient: Tensor) -> tuple[Tensor, Tensor]:
    n, m = gradient.shape
    square = torch.eye(max(n, m), min(n, m), device=gradient.device)
    return square[:n], square[:m]


def _select_columns(
    left: Tensor, right: Tensor, gradient: Tensor, rank: int, kind: str
) -> dict[str, Tensor]:
    """Return the leading columns of both sides, or of the smaller one (the right one of a square)."""
    n, m = gradient.shape
    columns = {}
    if kind == "tucker" or n < m:
        columns["left"] = left[:, :rank].to(gradient.dtype, copy=True).contiguous()
    if kind == "tucker" or n >= m:
        columns["right"] = right[:, :rank].to(gradient.dtype, copy=True).contiguous()
    return columns
