"""The closure that torch passes to `Optimizer.step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evaluate_closure(closure: Callable[[], Any] | None) -> Any:
    """Return the loss of a closure, run with gradients enabled, for a `step` under no_grad; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
