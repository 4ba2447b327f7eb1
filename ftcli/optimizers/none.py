"""No optimizer: for runs that only evaluate, compute or sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.optimizers.library import LibraryOptimizer


class Nothing(LibraryOptimizer):
    """Updates no parameter, and refuses a run with steps."""

    def __init__(self) -> None:
        super().__init__("torch.optim.SGD", lr=0.0)

    def build(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]], device: torch.device | str
    ) -> torch.optim.Optimizer:
        """Build an optimizer over no parameter."""
        self.optimizer = torch.optim.SGD([{"params": [], "initial_lr": 0.0}], lr=0.0)
        return self.optimizer

    def setup(self, run: Any) -> None:
        """Check that the run has no steps.

        Raises:
            UserError: the run has steps.
        """
        steps = run.trainer.count_steps(run)
        if steps:
            raise UserError(
                f"optimizer=none cannot take {steps} steps.",
                where="optimizer",
                fix="trainer.max_steps=0, or optimizer=adamw",
            )
