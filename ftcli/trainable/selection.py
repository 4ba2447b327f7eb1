"""What policies choose with: when, how many, by what score; of blocks or of entries of a tensor."""

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
    """When to choose anew: before the first step, and then every so many steps or epochs.

    Args:
        steps: optimizer steps between choices.
        epochs: passes over the data between choices. With neither, the first choice stays.
    """

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        for value in (self.steps, self.epochs):
            if value is not None and value < 1:
                raise UserError(f"{value} is not a valid interval; the smallest is 1.", "trainable")

    def due(self, state: State) -> bool:
        """Whether the step about to be taken begins with a choice."""
        if self.steps is not None and state.step % self.steps == 0:
            return True
        if self.epochs is not None and state.batch == 0 and state.epoch % self.epochs == 0:
            return True
        return state.step == 0


def share(total: int, fraction: float, key: str, of: str = "blocks") -> int:
    """A fraction of a number of things, rounded down.

    Args:
        key: the option that names the fraction, for messages.

    Raises:
        UserError: the fraction is not in (0, 1], or leaves nothing.
    """
    # a product such as 0.29 * 100 lies a rounding error below the whole number that is meant
    count = math.floor(fraction * total + 1e-9)
    if not 0 < fraction <= 1 or count < 1:
        raise UserError(
            f"{fraction:g} of {total} {of}, rounded down, is {max(count, 0)}; it must be between "
            f"1 and {total}.",
            where=key,
            fix=f"{key}={1 / total if fraction <= 0 or count < 1 else 1:.3g}",
        )
    return count


def within(count: int, total: int, key: str, of: str = "blocks") -> int:
    """The count, once it is known to be between 1 and the total.

    Raises:
        UserError: it is not.
    """
    if not 1 <= count <= total:
        raise UserError(
            f"{count} of {total} {of} cannot be chosen.",
            where=key,
            fix=f"{key}={min(max(count, 1), total)}",
        )
    return count


def top(scores: Tensor, count: int) -> Tensor:
    """Indices [count] of the highest of the scores (any shape, flattened), ascending."""
    return scores.flatten().topk(count, sorted=False).indices.sort().values


class Sampler:
    """Random choices without replacement from a generator of their own.

    What else draws in a run (dropout, data order) neither moves it nor is moved by it; its state
    belongs in a checkpoint. Draws happen on the CPU, so they are the same on every device.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, total: int, count: int) -> Tensor:
        """`count` different numbers below `total`, each set equally likely; int64, ascending."""
        return torch.randperm(total, generator=self.generator)[:count].sort().values

    def weighted(self, weights: Tensor, count: int) -> Tensor:
        """`count` different indices of `weights` [n], n up to 2^24, drawn one after the other.

        Each draw takes one of those left with probability proportional to its weight; int64,
        ascending.
        """
        chosen = torch.multinomial(weights.double().cpu(), count, generator=self.generator)
        return chosen.sort().values

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stands."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from there."""
        self.generator.set_state(saved["generator"])
