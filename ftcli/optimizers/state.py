"""The state contract of optimizers: what a policy may ask of the moments it does not own.

Works on every `torch.optim.Optimizer` whose state is a dictionary of tensors a parameter. What only
some can do (`restrict`, `seed`) is asked for with `require_method`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ftcli.core.errors import UserError


def drop(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Forget all state of these parameters: the next step of each is its first."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)


def offload(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Move the state of these parameters to the CPU, where it costs no device memory."""
    _move(optimizer, parameters, torch.device("cpu"))


def fetch(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Bring offloaded state back to its parameters."""
    for parameter in parameters:
        _move(optimizer, [parameter], parameter.device)


def elements(optimizer: Optimizer) -> int:
    """Values held as state, counters of one element left out."""
    return sum(t.numel() for t in tensors(optimizer) if t.numel() > 1)


def nbytes(optimizer: Optimizer) -> int:
    """Bytes of the state on any device."""
    return sum(t.numel() * t.element_size() for t in tensors(optimizer))


def tensors(optimizer: Optimizer) -> Iterator[Tensor]:
    """Every tensor of the state."""
    for state in optimizer.state.values():
        yield from _tensors(state)


def require_method(optimizer: Optimizer, ability: str, asker: str) -> Any:
    """The optimizer, once it is known to have a method called `ability`.

    Raises:
        UserError: it has not.
    """
    if not callable(getattr(optimizer, ability, None)):
        raise UserError(
            f"{asker} needs an optimizer that can {ability} its state to some entries of a tensor; "
            f"{type(optimizer).__name__} cannot.",
            where="optimizer",
            fix="optimizer=sparse_adamw",
        )
    return optimizer


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)


def _move(optimizer: Optimizer, parameters: Iterable[nn.Parameter], to: torch.device) -> None:
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if (
                isinstance(value, Tensor) and value.dim() > 0
            ):  # scalars may have to stay where they are
                state[name] = value.to(to)
