"""The rank of every matrix from one threshold on all normalised singular values (WeLore, arXiv 2407.11239)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Allocation = Literal["threshold", "uniform"]


def normalise(values: Tensor) -> Tensor:
    """Return (s - min s) / (max s - min s) of the singular values of one matrix; ones where all are equal.

    The least value becomes 0, so that every threshold above 0 removes it.
    """
    least, most = values.min(), values.max()
    return (values - least) / (most - least) if most > least else torch.ones_like(values)


def find_threshold(spectra: Sequence[Tensor], reduction: float) -> float:
    """Return the threshold below which a share of all normalised singular values lies.

    Args:
        spectra: singular values of each matrix.
        reduction: the share, rounded down to a whole number of values; ties at the threshold are kept.
    """
    ordered = torch.cat([normalise(values).cpu() for values in spectra]).sort().values
    return ordered[_share(reduction, len(ordered))].item()


def allocate_ranks(
    spectra: Mapping[str, Tensor],
    reduction: float,
    tau: float | None = None,
    allocation: Allocation = "threshold",
    min_ratio: float = 0.4999,
) -> dict[str, int]:
    """Return name -> rank that is kept; of a matrix that stays as it is, the number of its singular values.

    Args:
        spectra: name -> singular values.
        reduction: share of all ranks to remove.
        tau: threshold on normalised singular values in the place of that which `reduction` gives.
        allocation: `threshold` is one for all matrices; `uniform` removes an equal share from each.
        min_ratio: a matrix that would lose no more than this share stays as it is. The achieved
            reduction is then below the one that was asked for.
    """
    if allocation == "uniform":
        removed = {name: _share(reduction, len(values)) for name, values in spectra.items()}
    else:
        least = find_threshold(list(spectra.values()), reduction) if tau is None else tau
        removed = {name: int((normalise(s) < least).sum()) for name, s in spectra.items()}
    sizes = {name: len(values) for name, values in spectra.items()}
    return {
        name: size - removed[name] if removed[name] / size > min_ratio else size
        for name, size in sizes.items()
    }


def factorise(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return U sqrt(S) [out, rank] and sqrt(S) V^T [rank, in] of a matrix, from its SVD in float32.

    No product of this rank is nearer to the matrix in the Frobenius norm (Eckart-Young).
    """
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _share(share: float, count: int) -> int:
    return int(share * count + 1e-9)  # 0.29 * 100 is 28.999999999999996
