"""Helpers of policies: when to choose, how many, and which blocks or entries of a tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftcli.core.callback import State
from ftcli.core.errors import UserError


@dataclass(frozen=True)
class Interval:
    """When to choose: before the first step, and then every `steps` steps or `epochs` epochs.

    Args:
        steps: optimizer steps between choices.
        epochs: passes over the data between choices. Without either, the first choice is kept.
    """

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        for value in (self.steps, self.epochs):
            if value is not None and value < 1:
                raise UserError(f"{value} is not a valid interval; the smallest is 1.", "trainable")

    def is_due(self, state: State) -> bool:
        """Whether the next step begins with a choice."""
        if self.steps is not None and state.step % self.steps == 0:
            return True
        if self.epochs is not None and state.batch == 0 and state.epoch % self.epochs == 0:
            return True
        return state.step == 0


def count_share(total: int, fraction: float, key: str, of: str = "blocks") -> int:
    """Return a fraction of a number of items, rounded down.

    Args:
        key: the option that sets the fraction, for messages.
        of: what the items are, for messages.

    Raises:
        UserError: the fraction is not in (0, 1], or the result is 0.
    """
    # the tolerance is for products such as 0.29 * 100, which lie a rounding error below an integer
    count = math.floor(fraction * total + 1e-9)
    if not 0 < fraction <= 1 or count < 1:
        raise UserError(
            f"{fraction:g} of {total} {of}, rounded down, is {max(count, 0)}; it must be between "
            f"1 and {total}.",
            where=key,
            fix=f"{key}={1 / total if fraction <= 0 or count < 1 else 1:.3g}",
        )
    return count


def check_count(count: int, total: int, key: str, of: str = "blocks") -> int:
    """Return the count after checking that it is between 1 and the total.

    Raises:
        UserError: it is not between 1 and the total.
    """
    if not 1 <= count <= total:
        raise UserError(
            f"{count} of {total} {of} cannot be chosen.",
            where=key,
            fix=f"{key}={min(max(count, 1), total)}",
        )
    return count


class Sampler:
    """Random choices without replacement from a generator of its own.

    Other random draws of a run (dropout, data order) are independent of it; its state is stored in the
    checkpoint. It draws on the CPU, so that choices are the same on every device.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw_uniform(self, total: int, count: int) -> Tensor:
        """Return `count` different numbers below `total`, each set equally likely; int64, ascending."""
        return torch.randperm(total, generator=self.generator)[:count].sort().values

    def draw_weighted(self, weights: Tensor, count: int) -> Tensor:
        """Return `count` different indices of `weights` [n], n up to 2^24, drawn one after the other.

        Each draw takes one of the remaining with probability proportional to its weight; int64,
        ascending.
        """
        chosen = torch.multinomial(weights.double().cpu(), count, generator=self.generator)
        return chosen.sort().values

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the state of the generator."""
        self.generator.set_state(saved["generator"])
