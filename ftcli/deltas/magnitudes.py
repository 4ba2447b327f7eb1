"""Select the k largest magnitudes of a delta in three passes, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ftcli.deltas.delta import Delta

HALF = 1 << 16


def select_largest(delta: Delta, k: int) -> Iterator[Tensor]:
    """Yield for each tensor, in the order of the names, a mask [n] of the values among the k largest.

    Magnitudes are compared as float32, whose bit patterns sort like their values: two passes count
    the upper and then the lower 16 bits, the third yields the masks. Of values equal to the k-th the
    first ones are taken, so that exactly k are true.
    """
    if k <= 0:
        yield from (torch.zeros_like(flat, dtype=torch.bool) for flat in delta.flat())
        return
    upper, above = _find_cut(
        sum(torch.bincount(b >> 16, minlength=HALF) for b in _magnitude_bits(delta)), k
    )
    inner = (b[b >> 16 == upper] & (HALF - 1) for b in _magnitude_bits(delta))
    lower, within = _find_cut(sum(torch.bincount(b, minlength=HALF) for b in inner), k - above)
    last, quota = upper * HALF + lower, k - above - within
    for bits in _magnitude_bits(delta):
        equal = bits == last
        if quota < int(equal.sum()):
            equal &= equal.cumsum(0) <= quota
        quota -= int(equal.sum())
        yield (bits > last) | equal


def prune_delta(delta: Delta, density: float) -> Delta:
    """Return the delta with the largest share `density` of its entries; all others are zero."""
    count = delta.entries
    kept = dict(zip(delta.shapes, select_largest(delta, int(count * density)), strict=True))
    return delta.map(
        lambda name, tensor: tensor * kept[name].view(tensor.shape),
        f"largest {density:g} of the entries kept",
    )


def compute_moments(delta: Delta) -> tuple[int, float, float]:
    """Return count, mean and unbiased standard deviation of the values of all tensors."""
    count, mean, squares = 0, 0.0, 0.0
    for flat in delta.flat():  # Chan et al. 1979: moments of parts joined without cancellation
        n, tensor_mean = flat.numel(), flat.mean().item()
        shift, total = tensor_mean - mean, count + n
        squares += (flat - tensor_mean).square().sum().item() + shift**2 * count * n / total
        mean += shift * n / total
        count = total
    return count, mean, (squares / (count - 1)) ** 0.5


def _magnitude_bits(delta: Delta) -> Iterator[Tensor]:
    """Yield float32 bit patterns of the magnitudes as int64 [n], which sort like the magnitudes."""
    return (flat.abs().float().view(torch.int32).long() for flat in delta.flat())


def _find_cut(counts: Tensor | int, k: int) -> tuple[int, int]:
    """Return the bin of the k-th largest value, and the number of values in the bins above it."""
    assert isinstance(counts, Tensor)
    above = counts.flip(0).cumsum(0).flip(0)  # of this bin and those above
    chosen = int((above >= k).nonzero()[-1])
    return chosen, int(above[chosen] - counts[chosen])
