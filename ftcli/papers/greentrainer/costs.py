"""The cost model of GreenTrainer: what the backward pass takes when some tensors are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TensorCosts:
    """Costs of a step by tensor, in multiply-accumulates (half of a FLOP count).

    A frozen tensor saves its own gradient. The gradient of activations still passes its operator wherever
    a tensor nearer to the input is trained (arXiv 2309.13192, section 3.1).

    Attributes:
        names: tensors in the order in which the forward pass uses them first, [N].
        own: what the gradient of each takes, t_dw of the paper, float64 [N].
        path: what passing the gradient of activations through its operator takes, t_dy, float64 [N].
        forward: the forward pass, T_fp.
    """

    names: tuple[str, ...]
    own: Array
    path: Array
    forward: float

    def compute_backward(self, selected: Array) -> float:
        """Return the cost of the backward pass that trains the selected tensors, bool [N].

        Equation 5 of the paper: the path is paid down to the first selected tensor, its own operator
        included. Autograd does not compute that last one, so that the cost is an upper bound.
        """
        reached = np.maximum.accumulate(selected)
        return float(self.own[selected].sum() + self.path[reached].sum())

    def compute_step(self, selected: Array) -> float:
        """Return the cost of forward and backward pass."""
        return self.forward + self.compute_backward(selected)

    def mask(self, names: Iterable[str]) -> Array:
        """Return which tensors have these names, bool [N]."""
        wanted = set(names)
        return np.array([name in wanted for name in self.names], dtype=bool)

    def compute_budget(self, rho: float, trained: Array) -> float:
        """Return what is left for the backward pass; not positive where the forward pass takes it all.

        Args:
            rho: share of the cost of a step, forward pass included.
            trained: tensors that are trained without a budget, bool [N].
        """
        return rho * self.compute_step(trained) - self.forward

    def find_affordable(self, trained: Array, budget: float) -> Array:
        """Return the tensors that can be trained at least alone within the budget, bool [N]."""
        path_down = self.path[::-1].cumsum()[::-1]
        return trained & (path_down + self.own <= budget)
