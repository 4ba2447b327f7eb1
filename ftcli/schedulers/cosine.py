"""Warmup, then half a cosine to the minimum (SGDR, arXiv 1608.03983, equation 5, one cycle)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftcli.schedulers.base import Scheduler


@dataclass
class Cosine(Scheduler):
    """Factor 1 at the first step after the warmup, `min_ratio` one step after the last."""

    def factor_after_warmup(self, step: int, steps: int) -> float:
        """Return the half cosine (1 + cos(pi step / steps)) / 2, scaled to end at `min_ratio`."""
        return self.interpolate((1 + math.cos(math.pi * min(step, steps) / steps)) / 2)
