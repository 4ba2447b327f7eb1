"""One-shot pruning of a weight to a share of zeros, or to n kept weights in every m.

SparseGPT (arXiv 2301.00774) removes weights from left to right and corrects those that remain for the error; Wanda
(arXiv 2306.11695) and magnitude correct nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Algorithm = Literal["none", "magnitude", "wanda", "sparsegpt"]
BLOCK = 128  # columns that SparseGPT chooses zeros among at a time


@dataclass(frozen=True)
class Pattern:
    """Which weights may be zero.

    Attributes:
        sparsity: share of zeros; with groups it follows from them.
        kept: weights that stay in every group of a row; None: no groups.
        group: consecutive weights of a row that form a group.
    """

    sparsity: float
    kept: int | None = None
    group: int = 1


def read_pattern(text: str, sparsity: float) -> Pattern:
    """Return the pattern of "unstructured" or of "n:m", n weights kept in every m.

    Raises:
        ValueError: the text is neither, or the share of zeros is not in (0, 1).
    """
    if text == "unstructured":
        if not 0 < sparsity < 1:
            raise ValueError(f"sparsity={sparsity} is no share of zeros between 0 and 1")
        return Pattern(sparsity)
    kept, _, group = text.partition(":")
    if not (kept.isdecimal() and group.isdecimal() and 0 < int(kept) < int(group) <= BLOCK):
        raise ValueError(f"pattern={text} is neither unstructured nor n:m with n < m <= {BLOCK}")
    return Pattern(1 - int(kept) / int(group), int(kept), int(group))


def prune(
    weight: Tensor, covariance: Tensor | None, algorithm: Algorithm, pattern: Pattern, damp: float
) -> Tensor:
    """Return the pruned weight [out, in] in the dtype of `weight`.

    Args:
        covariance: of the layer's inputs, [in, in] up to a factor; magnitude needs none.
        damp: share of the mean diagonal of the covariance that SparseGPT adds to its diagonal.

    Raises:
        ValueError: rows cannot be divided into groups.
    """
    if weight.shape[1] % pattern.group:
        raise ValueError(
            f"groups of {pattern.group} do not divide rows of {weight.shape[1]} weights"
        )
    values = weight.detach().float()
    if algorithm == "magnitude":
        return weight.masked_fill(choose_zeros(values.abs(), pattern), 0)
    assert covariance is not None
    if algorithm == "wanda":
        scores = values.abs() * covariance.diagonal().float().sqrt()
        rows = choose_zeros(scores, pattern) if pattern.kept else choose_in_rows(scores, pattern)
        return weight.masked_fill(rows, 0)
    return prune_with_feedback(values, factorise_inverse(covariance, damp), pattern).to(
        weight.dtype
    )


def choose_zeros(scores: Tensor, pattern: Pattern) -> Tensor:
    """Return where the lowest scores are, bool [out, in]: in every group, else in the whole matrix."""
    if pattern.kept is None:
        return _lowest(scores.flatten()[None], pattern.sparsity).view_as(scores)
    groups = scores.reshape(-1, pattern.group)
    return _lowest(groups, pattern.sparsity).view_as(scores)


def choose_in_rows(scores: Tensor, pattern: Pattern) -> Tensor:
    """Return where the lowest scores of each row are, bool [out, in]."""
    return _lowest(scores, pattern.sparsity)


def _lowest(scores: Tensor, share: float) -> Tensor:
    count = round(scores.shape[1] * share)
    lowest = scores.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, lowest, True)


def factorise_inverse(covariance: Tensor, damp: float) -> Tensor:
    """Return the upper triangular U with U^T U = (H + damp * mean(diag H) I)^-1, float32 [in, in].

    Inputs that are always 0 count as independent of size 1.
    """
    hessian = covariance.float().clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damp * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def prune_with_feedback(weight: Tensor, factor: Tensor, pattern: Pattern) -> Tensor:
    """Return a weight, float32 [out, in], pruned by SparseGPT.

    A weight scores w_ij^2 / U_jj^2. Zeros are chosen among a block of columns (unstructured) or when the
    first column of a group is reached, after the corrections so far. The error e = w_j / U_jj of a removed
    weight is subtracted as e U_jl from every later column l of its row.

    Args:
        factor: U of `factorise_inverse`.
    """
    weight, width = weight.clone(), weight.shape[1]
    size = BLOCK // pattern.group * pattern.group
    for start in range(0, width, size):
        stop = min(start + size, width)
        errors = torch.zeros_like(weight[:, start:stop])
        step = pattern.group if pattern.kept else stop - start
        for first in range(start, stop, step):
            columns = slice(first, first + step)
            scores = (weight[:, columns] / factor.diagonal()[columns]).square()
            zeros = choose_zeros(scores, pattern)
            for j in range(first, first + step):
                removed = zeros[:, j - first]
                error = torch.where(removed, weight[:, j] / factor[j, j], 0.0)
                weight[:, j:stop] -= error[:, None] * factor[j, j:stop]
                weight[removed, j] = 0  # what rounding leaves
                errors[:, j - start] = error
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight


def output_error(weight: Tensor, pruned: Tensor, covariance: Tensor) -> float:
    """Return the mean squared change of a layer's outputs, trace(E C E^T) with E the change of its weight."""
    off = (weight - pruned).float()
    return float((off @ covariance.float() * off).sum())
