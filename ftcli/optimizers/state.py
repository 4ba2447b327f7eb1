"""Operations on the state of optimizers: drop, offload, fetch, count.

They work on every `torch.optim.Optimizer` whose state is a dictionary of tensors per parameter. Methods
that only some optimizers have (`restrict`, `seed`) are checked for with `require_method`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ftcli.core.errors import UserError


def drop(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Drop all state of these parameters: the next step of each is its first."""
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
    """Return the number of values in the state, without counters of one element."""
    return sum(t.numel() for t in tensors(optimizer) if t.numel() > 1)


def nbytes(optimizer: Optimizer) -> int:
    """Return the bytes of the state on all devices."""
    return sum(t.numel() * t.element_size() for t in tensors(optimizer))


def tensors(optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield every tensor of the state."""
    for state in optimizer.state.values():
        yield from _tensors(state)


def require_method(optimizer: Optimizer, ability: str, asker: str) -> Any:
    """Return the optimizer after checking that it has a method called `ability`.

    Args:
        asker: the option that needs the method, for the message.

    Raises:
        UserError: it has no such method.
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
            ):  # some optimizers require scalars to stay on their device
                state[name] = value.to(to)
