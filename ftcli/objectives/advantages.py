"""Advantages of sampled answers from several rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
EPSILON = 1e-4  # added to a standard deviation, so that equal rewards give 0 and not 0/0


def compute_advantages(
    rewards: Tensor,
    weights: Tensor,
    group: int,
    scale: Scale = "group",
    aggregation: Aggregation = "sum_then_normalize",
    over_ranks: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Return the advantages [A] of answers: rewards relative to those of the same prompt.

    Args:
        rewards: [A, K] float, of K rewards; NaN where a reward does not apply. Answers of one
            prompt are adjacent.
        weights: [K], weight of each reward.
        group: number of answers a prompt; divides A.
        scale: standard deviation (n - 1 in the denominator) that the difference from the group's
            mean is divided by: the group's (GRPO), the whole batch's, or none (Dr. GRPO, arXiv
            2503.20783).
        aggregation: sum the rewards, then compare; or compare each within its group, sum, and
            normalise over the batch (GDPO, arXiv 2601.05242).
        over_ranks: sums a tensor over all ranks.

    An answer to which no reward applies has advantage 0 and is left out of all means.
    """
    unrewarded = rewards.isnan().all(1)
    if aggregation == "normalize_then_sum":
        grouped = rewards.view(-1, group, rewards.shape[1])
        mean, std = _compute_moments(grouped, 1)
        rewards = ((grouped - mean) / (std + EPSILON)).view_as(rewards)
    total = (rewards * weights).nansum(1).masked_fill(unrewarded, torch.nan)
    if aggregation == "normalize_then_sum":
        centre, spread = _compute_global_moments(total, over_ranks)
        return ((total - centre) / (spread + EPSILON)).nan_to_num(0.0)
    mean, std = _compute_moments(total.view(-1, group), 1)
    difference = total.view(-1, group) - mean
    if scale == "group":
        difference = difference / (std + EPSILON)
    if scale == "batch":
        difference = difference / (_compute_global_moments(total, over_ranks)[1] + EPSILON)
    return difference.flatten().nan_to_num(0.0)


def group_std(rewards: Tensor, weights: Tensor, group: int) -> Tensor:
    """Return the standard deviation of the weighted sum within each group, [A / group]."""
    unrewarded = rewards.isnan().all(1)
    total = (rewards * weights).nansum(1).masked_fill(unrewarded, torch.nan)
    return _compute_moments(total.view(-1, group), 1)[1].flatten()


def _compute_moments(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation along a kept dimension, without NaN."""
    count = (~values.isnan()).sum(dim, keepdim=True)
    mean = values.nanmean(dim, keepdim=True)
    squares = (values - mean).square().nansum(dim, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def _compute_global_moments(
    values: Tensor, over_ranks: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over all ranks, without NaN."""
    present = ~values.isnan()
    first = over_ranks(torch.stack([present.sum().to(values), values.nansum()]))
    mean = first[1] / first[0].clamp(min=1)
    squares = over_ranks((values - mean).square().nansum())
    return mean, (squares / (first[0] - 1).clamp(min=1)).sqrt()
