"""W ~ Q + L1 L2 by turns of singular value decomposition and quantisation (LQ-LoRA, algorithm 1 and section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ftcli.papers.lq_lora.normal_float import Format, Quantised, quantise

#: Least weight of a row or column, as a share of the largest: of dead rows the Fisher information is 0.
LEAST = 1e-6


@dataclass(frozen=True)
class Settings:
    """How the decomposition runs."""

    iterations: int = 100  # at most; 0: quantisation alone, without a low-rank part
    oversampling: int = 10  # further vectors of the randomised decomposition
    randomized: bool = True  # torch.svd_lowrank; else the whole decomposition


@dataclass(frozen=True)
class Decomposition:
    """W ~ Q + L1 L2.

    Attributes:
        left: L1 [out, r]; zeros where there were no iterations.
        right: L2 [r, in].
        error: |sqrt(F) * (W - Q - L1 L2)|, Frobenius norm; F = 1 without Fisher information.
        errors: of every iteration.
    """

    quantised: Quantised
    left: Tensor
    right: Tensor
    error: float
    errors: tuple[float, ...]


@torch.no_grad()
def decompose(
    weight: Tensor,
    format: Format,
    r: int,
    fisher: Tensor | None = None,
    settings: Settings | None = None,
) -> Decomposition:
    """Return the best iterate of the alternation, which stops after the first that is not better.

    The published code returns that last, worse iterate, and names this in a remark.

    Args:
        weight: [out, in].
        r: rank of L1 L2.
        fisher: diagonal Fisher information [out, in]; it weighs rows and columns of the decomposition.
    """
    settings, weight = settings or Settings(), weight.float()
    roots = None if fisher is None else fisher.float().sqrt()
    left, right = weight.new_zeros(len(weight), r), weight.new_zeros(r, weight.shape[1])
    if not settings.iterations:
        quantised = quantise(weight, format)
        error = _measure(weight - quantised.weight(), roots)
        return Decomposition(quantised, left, right, error, (error,))
    best, errors, current = None, list[float](), torch.zeros_like(weight)
    for _ in range(settings.iterations):
        left, right = low_rank(weight - current, r, fisher, settings)
        product = left @ right
        quantised = quantise(weight - product, format)
        current = quantised.weight()
        errors.append(_measure(weight - current - product, roots))
        if best is not None and errors[-1] >= best.error:
            break
        best = Decomposition(quantised, left, right, errors[-1], ())
    assert best is not None
    return Decomposition(best.quantised, best.left, best.right, best.error, tuple(errors))


def low_rank(
    matrix: Tensor, r: int, fisher: Tensor | None = None, settings: Settings | None = None
) -> tuple[Tensor, Tensor]:
    """Return L1 = U sqrt(S) [out, r] and L2 = sqrt(S) V^T [r, in] of the first r singular values.

    With Fisher information F it is that of Dr M Dc, and L1 is divided by Dr, L2 by Dc:
    Dr = diag(sqrt(mean of F over columns)), Dc = diag(sqrt(mean of F over rows)). Where F = a b^T that is
    the best approximation in the norm |sqrt(F) * .|; of other F there is no closed form.
    """
    settings = settings or Settings()
    if fisher is None:
        return _singular_factors(matrix, r, settings)
    rows, columns = (_floor(fisher.float().mean(dim).sqrt()) for dim in (1, 0))
    left, right = _singular_factors(rows[:, None] * matrix * columns, r, settings)
    return left / rows[:, None], right / columns


def _singular_factors(matrix: Tensor, r: int, settings: Settings) -> tuple[Tensor, Tensor]:
    if settings.randomized:
        count = min(r + settings.oversampling, *matrix.shape)
        left, values, right = torch.svd_lowrank(matrix, q=count)
        right = right.T
    else:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    roots = values[:r].sqrt()
    return left[:, :r] * roots, roots[:, None] * right[:r]


def _floor(values: Tensor) -> Tensor:
    """Return the values, none below a small share of the largest; ones where all are 0."""
    top = values.max()
    return values.clamp(min=LEAST * top) if top > 0 else torch.ones_like(values)


def _measure(rest: Tensor, roots: Tensor | None) -> float:
    return float(torch.linalg.norm(rest if roots is None else roots * rest))
