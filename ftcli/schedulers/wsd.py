"""Warmup, stable, decay (MiniCPM, arXiv 2404.06395, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftcli.schedulers.base import Scheduler


@dataclass
class WSD(Scheduler):
    """Factor 1 until the last `decay_ratio` of all steps, then down to `min_ratio`."""

    decay_ratio: float = 0.1  # share of all steps in which the rate falls
    shape: Literal["linear", "sqrt"] = "linear"  # sqrt: 1 - sqrt(t) (arXiv 2405.18392)

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor of warmup, constant part or decay; a warmup that overlaps the decay comes first."""
        decay = max(1, round(self.decay_ratio * max_steps))
        left = max_steps - step
        if step < self.warmup(max_steps) or left > decay:
            return super().factor(step, max_steps)
        done = 1 - left / decay
        return self.interpolate(1 - (done if self.shape == "linear" else done**0.5))

    def factor_after_warmup(self, step: int, steps: int) -> float:
        """Return 1, the factor of the constant part."""
        return 1.0
