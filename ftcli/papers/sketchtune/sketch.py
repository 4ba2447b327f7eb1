"""A weight as codes into a few values of each row, learned with the covariance of the layer's inputs.

The way is that of LeanQuant (arXiv 2407.10032), from which sketches of the paper (arXiv 2410.06364) come: values by
k-means that is weighted by the inverse Hessian, codes column by column with error feedback as in GPTQ (arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ftcli.papers.sketchtune.clustering import cluster_rows

BLOCK = 128  # columns whose feedback to later blocks is one product


@dataclass(frozen=True)
class SketchSettings:
    """How a sketch is learned.

    Attributes:
        bits: of a code; a row, or a group of it, has 2^bits values.
        groups_per_row: parts of a row with values of their own.
        exponent: column j weighs U_jj^-exponent in k-means.
        damp: share of the mean diagonal of the covariance that is added to its diagonal.
        error_feedback: correct later columns for the error of earlier ones before they are coded.
    """

    bits: int = 4
    groups_per_row: int = 1
    exponent: float = 4.0
    damp: float = 0.1
    error_feedback: bool = True


@dataclass(frozen=True)
class Sketch:
    """Codes uint8 [out, in], and values float32 [out, groups, 2^bits] that they point to."""

    codes: Tensor
    values: Tensor

    def weight(self) -> Tensor:
        """Return the weight that the codes stand for, [out, in]."""
        return look_up(self.values, self.codes)


def learn_sketch(
    weight: Tensor,
    covariance: Tensor | None,
    settings: SketchSettings,
    generator: torch.Generator | None = None,
) -> Sketch:
    """Learn the values of a weight [out, in], then its codes.

    Args:
        covariance: of the layer's inputs, [in, in] up to a factor; None: inputs are taken as independent
            and of equal size, which leaves plain k-means.
        generator: of the start of k-means; None: torch's own.

    Raises:
        ValueError: a row cannot be divided into so many equal groups.
    """
    weight = weight.detach().float()
    rows, width = weight.shape
    if width % settings.groups_per_row:
        raise ValueError(
            f"groups_per_row={settings.groups_per_row} does not divide rows of {width} weights"
        )
    if covariance is None:
        factor = torch.eye(width, device=weight.device)
    else:
        dead = covariance.diagonal() == 0
        weight = weight.masked_fill(dead, 0)
        factor = factorise_inverse(covariance, settings.damp)
    size = width // settings.groups_per_row
    column = factor.diagonal().double().pow(-settings.exponent).expand(rows, width)
    values = cluster_rows(
        weight.reshape(-1, size), column.reshape(-1, size), 2**settings.bits, generator
    ).view(rows, settings.groups_per_row, -1)
    feedback = settings.error_feedback and covariance is not None
    return Sketch(assign_codes(weight, values, factor if feedback else None), values)


def factorise_inverse(covariance: Tensor, damp: float) -> Tensor:
    """Return the upper triangular U with U^T U = (H + damp * mean(diag H) I)^-1, float32 [in, in].

    Inputs that are always 0 count as independent of size 1.
    """
    damped = covariance.float().clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damp * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def assign_codes(weight: Tensor, values: Tensor, factor: Tensor | None) -> Tensor:
    """Return the code of the nearest value for each weight, uint8 [out, in].

    Args:
        weight: float32 [out, in].
        values: ascending, [out, groups, count].
        factor: U; with it columns are coded from left to right, and the error e = (w_j - q) / U_jj of
            column j is subtracted as e U_jl from every later column l. None: no feedback.
    """
    borders = (values[..., 1:] + values[..., :-1]) / 2
    if factor is None:
        grouped = weight.unflatten(1, (values.shape[1], -1)).contiguous()
        return torch.searchsorted(borders, grouped).to(torch.uint8).flatten(1)
    weight, codes = weight.clone(), torch.empty_like(weight, dtype=torch.uint8)
    size = weight.shape[1] // values.shape[1]
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = torch.zeros_like(weight[:, start:stop])
        for j in range(start, stop):
            column, group = weight[:, j : j + 1].contiguous(), j // size
            code = torch.searchsorted(borders[:, group].contiguous(), column)
            error = (column - values[:, group].gather(1, code)) / factor[j, j]
            weight[:, j:stop] -= error * factor[j, j:stop]
            codes[:, j], errors[:, j - start] = code[:, 0].to(torch.uint8), error[:, 0]
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes


def look_up(values: Tensor, codes: Tensor) -> Tensor:
    """Return the weight [out, in] of values [out, groups, count] and codes [out, in], in the values' dtype."""
    return values.gather(2, _grouped(codes, values)).flatten(1)


def sum_by_code(gradient: Tensor, codes: Tensor, like: Tensor) -> Tensor:
    """Return the sums of a weight's gradient [out, in] over the weights that share a value, shaped as `like`."""
    grouped = gradient.to(like.dtype).unflatten(1, (like.shape[1], -1))
    return torch.zeros_like(like).scatter_add_(2, _grouped(codes, like), grouped)


def _grouped(codes: Tensor, values: Tensor) -> Tensor:
    return codes.long().unflatten(1, (values.shape[1], -1))
