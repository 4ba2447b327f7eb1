"""Warmup, then a constant learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftcli.schedulers.base import Scheduler


@dataclass
class Constant(Scheduler):
    """Factor 1 after the warmup. There is no decay, so `min_ratio` cannot be set."""

    min_ratio: float = field(default=1.0, init=False)

    def factor_after_warmup(self, step: int, steps: int) -> float:
        """Return 1."""
        return 1.0
