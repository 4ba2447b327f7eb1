"""The closure that torch's protocol hands to `Optimizer.step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evaluate_closure(closure: Callable[[], Any] | None) -> Any:
    """The loss of a closure that takes gradients, for a step that takes none; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
