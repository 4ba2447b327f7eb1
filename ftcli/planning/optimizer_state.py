"""Bytes of an optimizer's state, measured on stand-ins of the trained tensors.

The configured optimizer takes one step on small tensors and its state is counted, so that each
optimizer of each library is planned by what it really keeps: 8 bytes a float32 parameter for
AdamW, 2 and the scales for 8-bit AdamW, 4 for Lion, rows + columns for Adafactor, 0 for plain SGD.
One whose state depends on more than the shape (GaLore: on the name, and on which side is shorter)
states how much it keeps of a parameter by `state_elements(parameter)`.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ftcli.planning.weights import ActiveParameters

Shape = tuple[int, ...]

SMALL = 2**18  # entries up to which a tensor is its own stand-in
SIDES = (128, 256)  # of the stand-ins of larger ones: large enough for 8-bit states (4096 entries)


@dataclass(frozen=True)
class OptimizerState:
    """Size of an optimizer's state.

    Attributes:
        bytes: size of all state.
        pageable: bytes that may leave the GPU for the host when memory is short.
        uses_backward: False for an optimizer that steps by losses alone.
    """

    bytes: int
    pageable: int
    uses_backward: bool = True


def measure_state(
    optimizer: Any, trained: Iterable[tuple[str, Shape, torch.dtype]], device: str
) -> OptimizerState:
    """Return the state that `optimizer` will keep for tensors of these names, shapes and types.

    Args:
        optimizer: the `optimizer` of a job; it is copied, not changed.
        device: the kind of device that will train, "cuda" or "cpu"; the class may depend on it.

    Raises:
        UserError: the optimizer cannot be built.
    """
    trained = list(trained)
    named = [
        (name, nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")))
        for name, shape, dtype in trained
    ]
    built = copy.deepcopy(optimizer).build(named, torch.device(device))
    backward = getattr(built, "uses_backward", True)
    if hasattr(built, "state_elements"):
        stated = sum(built.state_elements(p) * p.element_size() for _, p in named)
        return OptimizerState(stated, 0, backward)
    counted = Counter((shape, dtype) for _, shape, dtype in trained)
    wanted = {(shape, dtype) for key, dtype in counted for shape in _stand_ins(key)}
    measured, paged = _measure(optimizer, sorted(wanted, key=str), device)
    total = sum(
        number * _extrapolate(shape, dtype, measured) for (shape, dtype), number in counted.items()
    )
    return OptimizerState(round(total), round(total) if paged else 0, backward)


def measure_peak_state(
    optimizer: Any,
    trained: Iterable[tuple[str, Shape, torch.dtype]],
    active: ActiveParameters,
    device: str,
) -> OptimizerState:
    """Return the most state that exists at a step, where a policy may make parameters inactive.

    State that waits on the CPU counts as paged out on a GPU, and is in memory on a CPU.
    """
    trained = list(trained)
    at_step = measure_state(
        optimizer, [item for item in trained if item[0] in active.names], device
    )
    if active.inactive_state == "drop":
        return at_step
    total = measure_state(optimizer, trained, device)
    if active.inactive_state == "keep" or device == "cpu":
        return total
    return replace(total, pageable=total.bytes - at_step.bytes + at_step.pageable)


def _stand_ins(shape: Shape) -> list[Shape]:
    """Return the shape itself where it is small, else the corners to extrapolate its state from."""
    if prod(shape) <= SMALL:
        return [shape]
    if len(shape) == 1:
        return [(32 * side,) for side in SIDES]
    return [(rows, columns) for rows in SIDES for columns in SIDES]


def _extrapolate(
    shape: Shape, dtype: torch.dtype, measured: dict[tuple[Shape, torch.dtype], int]
) -> float:
    """Extrapolate state bytes as a + b*rows + c*columns + d*rows*columns from the corners."""
    if (shape, dtype) in measured and prod(shape) <= SMALL:
        return measured[shape, dtype]
    low, high = SIDES
    if len(shape) == 1:
        weights = _line_weights(shape[0], 32 * low, 32 * high)
        return sum(w * measured[(32 * s,), dtype] for w, s in zip(weights, SIDES, strict=True))
    rows, columns = _line_weights(shape[0], low, high), _line_weights(prod(shape[1:]), low, high)
    return sum(
        r * c * measured[(m, n), dtype]
        for r, m in zip(rows, SIDES, strict=True)
        for c, n in zip(columns, SIDES, strict=True)
    )


def _line_weights(x: float, low: int, high: int) -> tuple[float, float]:
    """Return the weights that the values at `low` and `high` have in a linear extrapolation to `x`."""
    share = (x - low) / (high - low)
    return 1 - share, share


def _measure(
    optimizer: Any, wanted: list[tuple[Shape, torch.dtype]], device: str
) -> tuple[dict[tuple[Shape, torch.dtype], int], bool]:
    """Take a step on the stand-ins; return the bytes of each one's state, and whether it is paged."""
    twice = [*wanted, *wanted]  # what two tensors share (code tables) is no state of either
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in twice]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    named = [(f"stand_in.{index}", parameter) for index, parameter in enumerate(parameters)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the check reports what takes a GPU optimizer's place
        built = copy.deepcopy(optimizer).build(named, torch.device(device))
        built.step(*([] if getattr(built, "uses_backward", True) else [lambda: torch.zeros(())]))
    tensors = [list(_tensors(built.state.get(p, {}))) for p in parameters]
    users = Counter(t.data_ptr() for state in tensors for t in state)
    sizes = [
        sum(
            t.numel() * t.element_size() for t in state if t.data_ptr() and users[t.data_ptr()] == 1
        )
        for state in tensors[: len(wanted)]
    ]
    return dict(zip(wanted, sizes, strict=True)), bool(getattr(built, "is_paged", False))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
