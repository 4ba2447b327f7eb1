"""Dtypes of matrix products inside autograd functions, which autocast does not reach by itself."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def get_product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of matrix products of x: that of autocast where it is on."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def disable_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast for the device of x; the meta device has none to disable."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()
