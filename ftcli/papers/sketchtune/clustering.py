"""Weighted k-means in one dimension, of many rows at once.

In one dimension clusters are intervals. Rows are sorted once, and sums over an interval are differences of
running sums, so that an iteration costs little more than a binary search for the borders.
"""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

ITERATIONS = 100
#: Entries of rows that are clustered together; bounds the memory of running sums.
CHUNK = 2**24
FEW = 8  # number of clusters up to which an even grid is the start


def cluster_rows(
    values: Tensor, weights: Tensor, count: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return the centres of each row's clusters in ascending order, float32 [rows, count].

    The start is an even grid from least to largest value for up to 8 clusters, and greedy k-means++ above;
    ends after 100 iterations, or where no value changes its cluster. An empty cluster moves to the value
    that adds most to the error.

    Args:
        values: float [rows, m].
        weights: positive, [rows, m]; the error that is minimised is sum of weight * distance^2.
        count: number of clusters.
        generator: of the draws of k-means++, on the CPU; None: torch's own.
    """
    step = max(1, CHUNK // values.shape[1])
    chunks = zip(values.split(step), weights.split(step), strict=True)
    return torch.cat([_cluster(v, w, count, generator) for v, w in chunks])


def _cluster(
    values: Tensor, weights: Tensor, count: int, generator: torch.Generator | None
) -> Tensor:
    ordered, order = values.float().contiguous().sort(dim=1)
    mass = weights.double().gather(1, order)
    start = _spread_evenly if count <= FEW else _draw_plus_plus
    centres = start(ordered, mass, count, generator)
    sums, edges = (_running_sum(mass), _running_sum(mass * ordered)), None
    for _ in range(ITERATIONS):
        borders = (centres[:, 1:] + centres[:, :-1]) / 2
        found = torch.searchsorted(ordered, borders, right=True)
        if edges is not None and torch.equal(found, edges):
            break
        edges = found
        total, moment = (_sum_between(running, edges) for running in sums)
        means = moment / total.clamp(min=torch.finfo(torch.float64).tiny)
        centres = torch.where(total > 0, means.float(), centres)
        _move_empty(centres, total <= 0, ordered, mass)
    return centres


def _spread_evenly(ordered: Tensor, mass: Tensor, count: int, generator: Any) -> Tensor:
    low, high = ordered[:, :1], ordered[:, -1:]
    return low + (high - low) * torch.linspace(0, 1, count, device=ordered.device)


def _draw_plus_plus(
    ordered: Tensor, mass: Tensor, count: int, generator: torch.Generator | None
) -> Tensor:
    """Draw centres one after the other, by weight times squared distance to the nearest so far.

    Of a few draws the one is taken that leaves the least error, as scikit-learn does.
    """
    chance, distance = mass, torch.full_like(mass, torch.inf)
    shape, centres = (len(ordered), 2 + int(log(count))), list[Tensor]()
    for _ in range(count):
        running = chance.cumsum(1)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64).to(mass.device)
        place = torch.searchsorted(running, drawn * running[:, -1:], right=True)
        candidates = ordered.gather(1, place.clamp(max=ordered.shape[1] - 1))
        centre, distance = _take_best(candidates, ordered, mass, distance)
        chance = mass * distance
        centres.append(centre)
    return torch.stack(centres, 1).sort(dim=1).values


def _take_best(
    candidates: Tensor, ordered: Tensor, mass: Tensor, distance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each row's candidate that leaves the least error, and the squared distances [rows, m] then."""
    best, least = candidates[:, 0], torch.full_like(mass[:, 0], torch.inf)
    nearest = distance
    for candidate in candidates.T:
        squares = torch.minimum(distance, (ordered - candidate[:, None]).double().square())
        error = (mass * squares).sum(1)
        better = error < least
        least, best = torch.where(better, error, least), torch.where(better, candidate, best)
        nearest = torch.where(better[:, None], squares, nearest)
    return best, nearest


def _move_empty(centres: Tensor, empty: Tensor, ordered: Tensor, mass: Tensor) -> None:
    """Move the first empty cluster of each row that has one to the value with the largest error; in place."""
    rows = empty.any(1).nonzero()[:, 0]
    if not len(rows):
        return
    some, own = ordered[rows], centres[rows]
    borders = (own[:, 1:] + own[:, :-1]) / 2
    off = some - own.gather(1, torch.searchsorted(borders, some))
    worst = (mass[rows] * off.double().square()).max(1)
    moved = own.scatter(
        1, empty[rows].int().argmax(1, keepdim=True), some.gather(1, worst.indices[:, None])
    )
    own = torch.where(worst.values[:, None] > 0, moved, own)
    centres[rows] = own.sort(dim=1).values


def _running_sum(values: Tensor) -> Tensor:
    """Return sums of the first 0, 1, .., m entries, [rows, m + 1]."""
    return pad(values.cumsum(1), (1, 0))


def _sum_between(running: Tensor, edges: Tensor) -> Tensor:
    """Return the sums of the intervals that the edges [rows, count - 1] divide a row into, [rows, count]."""
    last = running.shape[1] - 1
    ends = pad(edges, (0, 1), value=last)
    starts = pad(edges, (1, 0), value=0)
    return running.gather(1, ends) - running.gather(1, starts)
