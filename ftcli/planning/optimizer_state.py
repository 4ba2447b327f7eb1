"""Bytes of an optimizer's state, measured on stand-ins of the trained tensors.

The configured optimizer takes one step on small tensors and its state is counted, so that every
optimizer of every library is planned by what it really keeps: 8 bytes a float32 parameter for
AdamW, 2 and the scales for 8-bit AdamW, 4 for Lion, rows + columns for Adafactor, 0 for plain SGD.
One whose state depends on more than the shape (GaLore: on the name, and on which side is shorter)
says how much it keeps of a parameter by `state_elements(parameter)`.
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
    from ftcli.planning.moving import Moving

Shape = tuple[int, ...]

SMALL = 2**18  # entries up to which a tensor is its own stand-in
SIDES = (128, 256)  # of the stand-ins of larger ones: large enough for 8-bit states (4096 entries)


@dataclass(frozen=True)
class OptimizerState:
    """Bytes of all state; `pageable` is what may leave the GPU for the host when memory is short.

    `uses_backward` is False for an optimizer that steps by losses alone.
    """

    bytes: int
    pageable: int
    uses_backward: bool = True


def state_of(
    optimizer: Any, trained: Iterable[tuple[str, Shape, torch.dtype]], device: str
) -> OptimizerState:
    """The state that `optimizer` will keep for tensors of these names, shapes and types.

    Args:
        optimizer: a participant with `build(named_parameters, device)`.
        device: the kind of device that will train; it may choose the class ("cuda", "cpu").

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
        said = sum(built.state_elements(p) * p.element_size() for _, p in named)
        return OptimizerState(said, 0, backward)
    counted = Counter((shape, dtype) for _, shape, dtype in trained)
    wanted = {(shape, dtype) for key, dtype in counted for shape in _stand_ins(key)}
    measured, paged = _measure(optimizer, sorted(wanted, key=str), device)
    total = sum(
        number * _extrapolated(shape, dtype, measured) for (shape, dtype), number in counted.items()
    )
    return OptimizerState(round(total), round(total) if paged else 0, backward)


def state_at_a_time(
    optimizer: Any, trained: Iterable[tuple[str, Shape, torch.dtype]], moves: Moving, device: str
) -> OptimizerState:
    """The most state that there is at a time, where a policy may let parts rest.

    State that waits on the CPU counts as paged out on a GPU, and is in memory on a CPU.
    """
    trained = list(trained)
    moved = state_of(optimizer, [one for one in trained if one[0] in moves.names], device)
    if moves.resting == "drop":
        return moved
    every = state_of(optimizer, trained, device)
    if moves.resting == "keep" or device == "cpu":
        return every
    return replace(every, pageable=every.bytes - moved.bytes + moved.pageable)


def _stand_ins(shape: Shape) -> list[Shape]:
    """The tensor itself where it is small, else the corners from which its state is extrapolated."""
    if prod(shape) <= SMALL:
        return [shape]
    if len(shape) == 1:
        return [(32 * side,) for side in SIDES]
    return [(rows, columns) for rows in SIDES for columns in SIDES]


def _extrapolated(
    shape: Shape, dtype: torch.dtype, measured: dict[tuple[Shape, torch.dtype], int]
) -> float:
    """State that is a + b*rows + c*columns + d*rows*columns, through the values at the corners."""
    if (shape, dtype) in measured and prod(shape) <= SMALL:
        return measured[shape, dtype]
    low, high = SIDES
    if len(shape) == 1:
        weights = _line(shape[0], 32 * low, 32 * high)
        return sum(w * measured[(32 * s,), dtype] for w, s in zip(weights, SIDES, strict=True))
    rows, columns = _line(shape[0], low, high), _line(prod(shape[1:]), low, high)
    return sum(
        r * c * measured[(m, n), dtype]
        for r, m in zip(rows, SIDES, strict=True)
        for c, n in zip(columns, SIDES, strict=True)
    )


def _line(x: float, low: int, high: int) -> tuple[float, float]:
    """Weights of the values at `low` and `high` in the straight line's value at `x`."""
    share = (x - low) / (high - low)
    return 1 - share, share


def _measure(
    optimizer: Any, wanted: list[tuple[Shape, torch.dtype]], device: str
) -> tuple[dict[tuple[Shape, torch.dtype], int], bool]:
    """Bytes of the state of each stand-in after one step, and whether the optimizer is paged."""
    twice = [*wanted, *wanted]  # what two tensors share (code tables) is no state of either
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in twice]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    named = [(f"stand_in.{index}", parameter) for index, parameter in enumerate(parameters)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what stands in for a GPU's optimizer is said elsewhere
        built = copy.deepcopy(optimizer).build(named, torch.device(device))
        built.step(*([] if getattr(built, "uses_backward", True) else [lambda: torch.zeros(())]))
    tensors = [list(_tensors(built.state.get(p, {}))) for p in parameters]
    shared = Counter(t.data_ptr() for own in tensors for t in own)
    sizes = [
        sum(t.numel() * t.element_size() for t in own if t.data_ptr() and shared[t.data_ptr()] == 1)
        for own in tensors[: len(wanted)]
    ]
    return dict(zip(wanted, sizes, strict=True)), bool(getattr(built, "is_paged", False))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
