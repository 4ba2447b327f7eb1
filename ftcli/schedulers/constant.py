"""Warmup, then always the same learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftcli.schedulers.base import Scheduler


@dataclass
class Constant(Scheduler):
    """Factor 1 after the warmup. There is no decay, so there is no `min_ratio` to give."""

    min_ratio: float = field(default=1.0, init=False)

    def after(self, step: int, steps: int) -> float:
        """Always 1."""
        return 1.0
