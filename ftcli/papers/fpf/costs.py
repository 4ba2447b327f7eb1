"""Costs of training: examples whose loss is differentiated, and floating-point operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from ftcli.core.callback import Callback

KINDS = ("stream", "replay", "fpf")


class Costs(Callback):
    """Counts gradients of examples and operations.

    A gradient of an example is one forward and backward pass of its loss, whichever parameters
    get one. Operations are those of matrix products and convolutions, two a multiplication and addition; they
    are counted by torch in the first step of a kind and size and taken as equal in later ones. A frozen
    weight saves a third of a layer's at most, and the backward pass reaches down to the first
    parameter that is trained.
    """

    def __init__(self) -> None:
        self.gradients = dict.fromkeys(KINDS, 0)
        self.flops = 0
        self._flops_of: dict[tuple[Any, ...], int] = {}

    @contextmanager
    def count(self, key: tuple[Any, ...], **examples: int) -> Iterator[None]:
        """Count the operations of the block, which are equal for equal keys, and these examples by kind."""
        for kind, number in examples.items():
            self.gradients[kind] += number
        if key in self._flops_of:
            yield
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            self._flops_of[key] = counter.get_total_flops()
        self.flops += self._flops_of[key]

    def describe(self) -> dict[str, float]:
        """Return `gradients_<kind>`, `gradients` in all, and `training_flops`."""
        figures: dict[str, float] = {f"gradients_{k}": n for k, n in self.gradients.items()}
        total = sum(self.gradients.values())
        return figures | {"gradients": total, "training_flops": self.flops}

    def state_dict(self) -> dict[str, Any]:
        """Return the totals; operations of a step are counted again after a resume."""
        return {"gradients": dict(self.gradients), "flops": self.flops}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the totals."""
        self.gradients, self.flops = dict(saved["gradients"]), saved["flops"]
