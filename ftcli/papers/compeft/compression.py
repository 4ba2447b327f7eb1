"""ComPEFT (arXiv 2311.13171): a delta compressed to the signs of its largest entries and one scale."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ftcli.deltas import ternary
from ftcli.deltas.delta import Delta
from ftcli.deltas.magnitudes import compute_moments, select_largest

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
ALPHAS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
#: Which entries are kept, and how large they become.
#: std: the largest entries, of size alpha * standard deviation of all entries (ComPEFT).
#: mean: the largest entries, of size alpha * mean magnitude of the kept entries (sparse ternary
#: compression, arXiv 1903.02891).
#: random: entries chosen at random, with the scale of std.
Rule = Literal["std", "mean", "random"]


@dataclass(frozen=True)
class Signs:
    """Signs of the kept entries without a scale, so that a search over scales computes them once.

    Attributes:
        vector: positions and signs, with scale 1.
        std: standard deviation of all entries of the uncompressed delta, unbiased.
        mean: mean magnitude of the kept entries.
    """

    vector: ternary.Ternary
    std: float
    mean: float

    def with_scale(self, alpha: float, rule: Rule = "std") -> ternary.Ternary:
        """Return alpha * std(tau) * sign(tau) on the kept entries (rule `mean`: alpha * mean * sign)."""
        size = self.mean if rule == "mean" else self.std
        return replace(self.vector, scale=float(np.float32(alpha * size)))


def choose_signs(delta: Delta, density: float, rule: Rule = "std", seed: int = 0) -> Signs:
    """Return the signs of the int(d * density) largest entries, with one threshold for all tensors.

    Args:
        delta: the uncompressed delta, d entries in all its tensors.
        density: share of entries that are kept, in (0, 1].
        rule: `random` keeps entries chosen at random instead of the largest.
        seed: seed of that random choice.
    """
    count, _, std = compute_moments(delta)
    keep = int(count * density)
    positions, negative, total, start = [], [], 0.0, 0
    masks = (
        _random_masks(delta, keep, count, seed) if rule == "random" else select_largest(delta, keep)
    )
    for flat, mask in zip(delta.flat(), masks, strict=True):
        mask &= flat != 0  # a zero has no sign to keep
        kept = flat[mask]
        positions.append(mask.nonzero().flatten().numpy() + start)
        negative.append((kept < 0).numpy())
        total += kept.abs().sum().item()
        start += flat.numel()
    joined = np.concatenate(positions)
    vector = ternary.Ternary(dict(delta.shapes), joined, np.concatenate(negative), 1.0)
    return Signs(vector, std, total / max(len(joined), 1))


def compress(
    delta: Delta, density: float = 0.2, alpha: float = 1.0, rule: Rule = "std", seed: int = 0
) -> tuple[Delta, ternary.Ternary]:
    """Return the compressed delta and its ternary vector (Algorithm 1); arguments as in `choose_signs`."""
    return replace_by_ternary(
        delta, choose_signs(delta, density, rule, seed).with_scale(alpha, rule), density, alpha
    )


def replace_by_ternary(
    delta: Delta, coded: ternary.Ternary, density: float, alpha: float
) -> tuple[Delta, ternary.Ternary]:
    """Return `delta` with the values of its ternary vector, and that vector."""
    history = (
        *delta.history,
        f"ComPEFT: density {density:g}, alpha {alpha:g}, scale {coded.scale:.4g}",
    )
    return replace(delta, read=coded.tensor, history=history), coded


def search_settings(
    delta: Delta,
    score: Callable[[Delta], float],
    better: Callable[[float, float], bool],
    densities: Sequence[float] = DENSITIES,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[float, float, list[tuple[float, float, float]]]:
    """Return the density and alpha with the best score, and all trials as (density, alpha, score).

    Args:
        score: score of a compressed delta on held-out rows.
        better: whether its first score is better than its second.
    """
    trials: list[tuple[float, float, float]] = []
    best: tuple[float, float, float] | None = None
    for density, group in itertools.groupby(
        itertools.product(densities, alphas), key=lambda pair: pair[0]
    ):
        signs = choose_signs(delta, density)
        for _, alpha in group:
            value = score(replace_by_ternary(delta, signs.with_scale(alpha), density, alpha)[0])
            trials.append((density, alpha, value))
            if best is None or better(value, best[2]):
                best = trials[-1]
    assert best is not None
    return best[0], best[1], trials


def _random_masks(delta: Delta, keep: int, count: int, seed: int) -> list[torch.Tensor]:
    """Return one flat bool mask a tensor, with exactly `keep` of all `count` entries set."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count, generator=generator)[:keep]] = True
    sizes = [torch.Size(shape).numel() for shape in delta.shapes.values()]
    return list(mask.split(sizes))


def tune_scale(
    delta: Delta,
    densities: Sequence[float],
    loss: Callable[[Delta, str], float],
    rule: Rule = "std",
    alphas: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
) -> tuple[Delta, ternary.Ternary]:
    """Return the compressed delta, and its ternary vector, with the least loss on split `validation`.

    Args:
        densities: shares of entries that are tried.
        loss: loss of a delta on the split of that name.
        alphas: scales that are tried with each density.
    """
    signs = {density: choose_signs(delta, density, rule) for density in densities}

    def compress_with(density: float, alpha: float) -> tuple[Delta, ternary.Ternary]:
        return replace_by_ternary(delta, signs[density].with_scale(alpha, rule), density, alpha)

    pairs = itertools.product(densities, alphas)
    return compress_with(*min(pairs, key=lambda pair: loss(compress_with(*pair)[0], "validation")))
