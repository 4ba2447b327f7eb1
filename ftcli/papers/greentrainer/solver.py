"""Which tensors are trained within a budget: an exact dynamic programme, and a fill in a given order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ftcli.papers.greentrainer.costs import TensorCosts

Array = np.ndarray[Any, Any]


def select_tensors(
    importance: Array, costs: TensorCosts, budget: float, buckets: int = 10_000
) -> Array:
    """Return the tensors of the largest total importance whose backward pass is within the budget, bool [N].

    Equation 5 of the paper, solved exactly on a grid: once the selected tensor nearest to the input is
    fixed, so is the path, and what is left of the budget is a knapsack over the tensors behind it. One
    table for all of these, filled from the output on, takes O(N * buckets). Own costs are rounded up
    and capacities down, so that the budget is kept to the last FLOP. Tensors whose importance is not
    positive are never selected.

    Args:
        importance: of each tensor in the order of the costs, float64 [N].
        buckets: parts of the budget that costs are rounded to.
    """
    count, unit = len(importance), budget / buckets
    selected = np.zeros(count, dtype=bool)
    if budget <= 0:
        return selected
    sizes = np.ceil(costs.own / unit).astype(np.int64)
    path_down = costs.path[::-1].cumsum()[::-1]  # from the output to each tensor
    best = np.zeros(buckets + 1)  # capacity -> importance of tensors behind the current one
    taken = np.zeros((count, buckets + 1), dtype=bool)
    top, first, left = 0.0, -1, 0
    for index in reversed(range(count)):
        if path_down[index] > budget:
            break
        value = importance[index]
        if value <= 0 or sizes[index] > buckets:
            continue
        capacity = int((budget - path_down[index] - costs.own[index]) // unit)
        if capacity >= 0 and value + best[capacity] > top:
            top, first, left = value + best[capacity], index, capacity
        fitting = best[: buckets + 1 - sizes[index]] + value
        taken[index, sizes[index] :] = fitting > best[sizes[index] :]
        best[sizes[index] :] = np.maximum(best[sizes[index] :], fitting)
    if first >= 0:
        selected[first] = True
        for index in range(first + 1, count):
            if taken[index, left]:
                selected[index] = True
                left -= sizes[index]
    return selected


def fill_budget(order: Iterable[int], costs: TensorCosts, budget: float) -> Array:
    """Return the tensors that are added in this order, without those that exceed the budget, bool [N]."""
    selected = np.zeros(len(costs.names), dtype=bool)
    for index in order:
        selected[index] = True
        if costs.compute_backward(selected) > budget:
            selected[index] = False
    return selected
