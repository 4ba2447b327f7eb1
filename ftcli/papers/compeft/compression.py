"""ComPEFT (arXiv 2311.13171): a change of weights as signs of its largest entries and one scalar."""

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
#: std: alpha times the standard deviation of everything (ComPEFT); mean: mean magnitude of what is
#: kept (sparse ternary compression, arXiv 1903.02891); random: ComPEFT's scale on entries at random.
Rule = Literal["std", "mean", "random"]


@dataclass(frozen=True)
class Signs:
    """Signs of the chosen entries before a scale is chosen, so that a search makes them once.

    Attributes:
        std: of all entries of the uncompressed delta, unbiased.
        mean: mean magnitude of the chosen entries.
    """

    vector: ternary.Ternary
    std: float
    mean: float

    def scaled(self, alpha: float, rule: Rule = "std") -> ternary.Ternary:
        """tau~ = alpha * std(tau) * sign(tau) on the chosen entries."""
        size = self.mean if rule == "mean" else self.std
        return replace(self.vector, scale=float(np.float32(alpha * size)))


def signs(delta: Delta, density: float, rule: Rule = "std", seed: int = 0) -> Signs:
    """The signs of the int(d * density) largest entries of the whole delta: one threshold for all.

    Args:
        density: share of entries kept, in (0, 1].
        rule: `random` chooses entries at random instead.
        seed: of that choice.
    """
    count, _, std = compute_moments(delta)
    keep = int(count * density)
    positions, negative, total, start = [], [], 0.0, 0
    chosen = (
        _at_random(delta, keep, count, seed) if rule == "random" else select_largest(delta, keep)
    )
    for flat, mask in zip(delta.flat(), chosen, strict=True):
        mask &= flat != 0  # a zero has no sign to keep
        kept = flat[mask]
        positions.append(mask.nonzero().flatten().numpy() + start)
        negative.append((kept < 0).numpy())
        total += kept.abs().sum().item()
        start += flat.numel()
    places = np.concatenate(positions)
    vector = ternary.Ternary(dict(delta.shapes), places, np.concatenate(negative), 1.0)
    return Signs(vector, std, total / max(len(places), 1))


def compress(
    delta: Delta, density: float = 0.2, alpha: float = 1.0, rule: Rule = "std", seed: int = 0
) -> tuple[Delta, ternary.Ternary]:
    """A delta and its ternary form: Algorithm 1."""
    return restored(delta, signs(delta, density, rule, seed).scaled(alpha, rule), density, alpha)


def restored(
    delta: Delta, coded: ternary.Ternary, density: float, alpha: float
) -> tuple[Delta, ternary.Ternary]:
    """The ternary vector in the place of the delta it was made from."""
    history = (
        *delta.history,
        f"ComPEFT: density {density:g}, alpha {alpha:g}, scale {coded.scale:.4g}",
    )
    return replace(delta, read=coded.tensor, history=history), coded


def search(
    delta: Delta,
    score: Callable[[Delta], float],
    better: Callable[[float, float], bool],
    densities: Sequence[float] = DENSITIES,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[float, float, list[tuple[float, float, float]]]:
    """The density and alpha with the best score on held-out rows, and every (density, alpha, score)."""
    tried: list[tuple[float, float, float]] = []
    best: tuple[float, float, float] | None = None
    for density, group in itertools.groupby(
        itertools.product(densities, alphas), key=lambda pair: pair[0]
    ):
        found = signs(delta, density)
        for _, alpha in group:
            value = score(restored(delta, found.scaled(alpha), density, alpha)[0])
            tried.append((density, alpha, value))
            if best is None or better(value, best[2]):
                best = tried[-1]
    assert best is not None
    return best[0], best[1], tried


def _at_random(delta: Delta, keep: int, count: int, seed: int) -> list[torch.Tensor]:
    """Which of each tensor's entries, exactly `keep` in all."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count, generator=generator)[:keep]] = True
    sizes = [torch.Size(shape).numel() for shape in delta.shapes.values()]
    return list(mask.split(sizes))


def tuned(
    delta: Delta,
    densities: Sequence[float],
    loss: Callable[[Delta, str], float],
    rule: Rule = "std",
    alphas: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
) -> tuple[Delta, ternary.Ternary]:
    """The compressed delta whose density and alpha have the least loss on the split `validation`."""
    found = {density: signs(delta, density, rule) for density in densities}

    def scaled(density: float, alpha: float) -> tuple[Delta, ternary.Ternary]:
        return restored(delta, found[density].scaled(alpha, rule), density, alpha)

    pairs = itertools.product(densities, alphas)
    return scaled(*min(pairs, key=lambda pair: loss(scaled(*pair)[0], "validation")))
