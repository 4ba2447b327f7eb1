"""Base class of schedules: the factor on the learning rate as a pure function of the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ftcli.core.errors import UserError


@dataclass
class Scheduler(ABC):
    """Base of all schedules: a linear warmup, then the factor of the subclass.

    Steps count from 0: `factor(0, n)` is for the first update and `factor(n - 1, n)` for the last.
    Warmup over w steps gives (step + 1) / w, so that no update has factor 0.
    """

    warmup_ratio: float = 0.0  # warmup as a share of all steps
    warmup_steps: int | None = None  # warmup in steps; overrides the ratio
    min_ratio: float = 0.0  # factor that the decay ends at

    def __post_init__(self) -> None:
        for key in ("warmup_ratio", "min_ratio"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise UserError(
                    f"{value} is not a share between 0 and 1.",
                    where=f"scheduler.{key}",
                    fix=f"scheduler.{key}=0.03",
                )

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor on the base learning rate at `step` (from 0) of `max_steps`."""
        warmup = self.warmup(max_steps)
        if step < warmup:
            return (step + 1) / warmup
        return self.factor_after_warmup(step - warmup, max(1, max_steps - warmup))

    def warmup(self, max_steps: int) -> int:
        """Return the number of warmup steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_ratio * max_steps)

    @abstractmethod
    def factor_after_warmup(self, step: int, steps: int) -> float:
        """Return the factor at `step` (from 0) of the `steps` that follow the warmup."""

    def interpolate(self, share: float) -> float:
        """Interpolate linearly from `min_ratio` at share 0 to 1 at share 1; the share is clipped to [0, 1]."""
        return self.min_ratio + (1 - self.min_ratio) * min(1.0, max(0.0, share))
