"""Scores of the entries of a weight matrix, and the positions of the highest scores."""

from __future__ import annotations

import torch
from torch import Tensor

#: Names of scores that depend on the weight alone and need no backward pass.
OF_WEIGHTS = ("lift", "weight", "random")


def approximate_low_rank(
    weight: Tensor, rank: int, randomised: bool = False, seed: int = 0
) -> Tensor:
    """Return the best approximation of a matrix of the given rank, float32 of its shape.

    LIFT (arXiv 2506.00772, equation 1): the first `rank` components of the singular value
    decomposition, in float32 whatever the weight's type.

    Args:
        randomised: decompose a random projection to 2 * rank directions (Halko et al. 2011).
        seed: seed of that projection; the state of the global generator is preserved.
    """
    matrix = weight.detach().float()
    if not randomised:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank] * values[:rank] @ right[:rank]
    devices = [matrix.device] if matrix.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(matrix, q=min(2 * rank, *matrix.shape))
    return left[:, :rank] * values[:rank] @ right[:, :rank].T


def draw_random(weight: Tensor, seed: int) -> Tensor:
    """Return independent uniform numbers of the weight's shape, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def find_top(score: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` largest values in the flattened tensor, ascending.

    Of equal values the first ones are taken, so that the choice is the same on every device.

    Returns:
        [count], int32 where positions fit, else int64.
    """
    flat = score.reshape(-1)
    chosen = torch.ones_like(flat, dtype=torch.bool)
    if count < flat.numel():
        threshold = flat.topk(count).values[-1]
        chosen = flat > threshold
        equal = (flat == threshold).nonzero().view(-1)
        chosen[equal[: count - int(chosen.sum())]] = True
    return chosen.nonzero().view(-1).to(torch.int32 if flat.numel() < 2**31 else torch.int64)
