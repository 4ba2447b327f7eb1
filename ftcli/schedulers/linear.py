"""Warmup, then a line to the minimum."""

from __future__ import annotations

from dataclasses import dataclass

from ftcli.schedulers.base import Scheduler


@dataclass
class Linear(Scheduler):
    """Factor 1 at the first step after the warmup, `min_ratio` one step after the last."""

    def factor_after_warmup(self, step: int, steps: int) -> float:
        """Return 1 - step / steps, scaled to end at `min_ratio`."""
        return self.interpolate(1 - step / steps)
