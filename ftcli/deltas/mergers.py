"""Merge the deltas of several tasks: sum, TIES, or consensus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ftcli.deltas.delta import Delta, find_widest_dtype, refuse_mixed, sum_deltas
from ftcli.deltas.magnitudes import prune_delta

Merger = Literal["sum", "ties", "consensus"]
DENSITY = 0.2  # of TIES: share of a task's entries that are kept
AGREEING, STRENGTH = (
    2,
    0.4,
)  # of consensus: tasks that must need an entry, and the strictness of their masks


def merge_deltas(
    deltas: Sequence[Delta], merger: Merger = "sum", density: float = DENSITY
) -> Delta:
    """Return one delta for several tasks.

    Args:
        merger: sum is task arithmetic (arXiv 2212.04089).
        density: share of entries that TIES keeps.

    Raises:
        UserError: the deltas differ in base, kind or tensors.
    """
    if merger == "ties":
        return merge_ties(deltas, density)
    return merge_consensus(deltas) if merger == "consensus" else sum_deltas(deltas)


def merge_ties(deltas: Sequence[Delta], density: float = DENSITY) -> Delta:
    """TIES (arXiv 2306.01708): trim, elect a sign, mean of those that have it.

    Of each task the int(d * density) largest entries stay. Of each entry the sign of the sum over
    tasks is elected, and the mean is taken over tasks whose entry has that sign; an entry whose
    sum is 0 has no sign, and is 0.

    Raises:
        UserError: the deltas do not belong together.
    """
    trimmed = [prune_delta(delta, density) for delta in deltas]

    def mean(parts: Tensor) -> Tensor:
        agreeing = (parts.sign() == parts.sum(0).sign()) & (parts != 0)
        return (parts * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)

    return _merge_each(trimmed, mean, f"TIES of {len(deltas)} changes, density {density:g}")


def merge_consensus(
    deltas: Sequence[Delta], agreeing: int = AGREEING, strength: float = STRENGTH
) -> Delta:
    """Consensus task arithmetic (arXiv 2405.07813): the sum, of entries that several tasks need.

    Task t needs an entry where |tau_t| >= strength * |tau - tau_t|, tau the sum over all tasks.

    Raises:
        UserError: the deltas do not belong together.
    """

    def keep_needed(parts: Tensor) -> Tensor:
        total = parts.sum(0)
        masks = parts.abs() >= strength * (total - parts).abs()
        return total * (masks.sum(0) >= agreeing)

    return _merge_each(deltas, keep_needed, f"consensus of {agreeing} of {len(deltas)} changes")


def _merge_each(deltas: Sequence[Delta], merge: Callable[[Tensor], Tensor], step: str) -> Delta:
    """Return the delta of a function of the stacked task tensors [N, ...], applied name by name."""
    refuse_mixed(deltas)
    return replace(
        deltas[0],
        read=lambda name: merge(torch.stack([delta.read(name) for delta in deltas])),
        history=(step, *(line for delta in deltas for line in delta.history)),
        dtype=find_widest_dtype(delta.dtype for delta in deltas),
    )
