"""Hooks on modules that read inputs, outputs and their gradients for a limited time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

What = Literal["input", "output", "input_gradient", "output_gradient"]
#: Maps the name of a module and the tensor that its hook saw to what is kept of it.
Read = Callable[[str, Tensor], Any]

_disabled = 0  # depth of nested `hooks_disabled` blocks


class Probes:
    """Hooks on named modules. Between `begin` and `end`, or in a `with` block, every call is read.

    What `read` returns for a tensor is kept under the name of its module, one item a call, until
    `take` or `end`; by default that is the tensor itself with its graph. A module that is called twice
    is read twice, in the order of the calls.

    Gradient checkpointing (not reentrant) runs a module once more in backward. The hook calls `read`
    then too, because a recomputation must save the same tensors as the first pass, but drops the
    result. So `end` comes after backward, not before. A `read` that reduces the tensor costs no more
    memory than the checkpointed forward pass.

    Args:
        modules: name -> the module that gets a hook.
        read: called with name and tensor; for `input` and `output` in the forward pass, with its graph.
        what: the first positional argument, the output (its first tensor), or the gradient of either
            as it arrives in backward.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], read: Read | None = None, what: What = "output"
    ) -> None:
        self.modules, self.what = dict(modules), what
        self._read: Read = read or (lambda name, tensor: tensor)
        self._readings: dict[str, list[Any]] = {}
        self._hooks: list[Any] = []

    def begin(self) -> None:
        """Drop what was read, and attach the hooks unless they are attached."""
        self._readings = {}
        if not self._hooks:
            self._hooks = [self._attach(name, module) for name, module in self.modules.items()]

    def take(self) -> dict[str, list[Any]]:
        """Return what was read since `begin`, by name, and drop it here. The hooks stay attached."""
        readings, self._readings = self._readings, {}
        return readings

    def end(self) -> None:
        """Remove the hooks and drop what was read; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._readings = [], {}

    def __enter__(self) -> Probes:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _attach(self, name: str, module: nn.Module) -> Any:
        if self.what.startswith("input"):
            return module.register_forward_pre_hook(lambda _, args: self._read_tensor(name, args))
        return module.register_forward_hook(lambda _, args, output: self._read_tensor(name, output))

    def _read_tensor(self, name: str, value: Any) -> None:
        tensor = value if isinstance(value, Tensor) else value[0]
        if _disabled:
            return
        if not self.what.endswith("gradient"):
            self._store_reading(name, self._read(name, tensor))
        elif tensor.requires_grad and not in_backward():  # a recomputation passes no gradient on
            tensor.register_hook(lambda gradient: self._store_gradient(name, gradient))

    def _store_gradient(self, name: str, gradient: Tensor) -> None:
        if self._hooks:  # backward may come after `end`
            self._readings.setdefault(name, []).append(self._read(name, gradient))

    def _store_reading(self, name: str, reading: Any) -> None:
        if not in_backward():
            self._readings.setdefault(name, []).append(reading)


@contextmanager
def hooks_disabled() -> Iterator[None]:
    """Disable the hooks of all `Probes` for the forward passes in the block, such as those of a reference model."""
    global _disabled
    _disabled += 1
    try:
        yield
    finally:
        _disabled -= 1


def in_backward() -> bool:
    """Whether autograd runs backward in this thread, so that a forward pass now is a recomputation.

    torch's own checkpointing calls the same function, which has no public name.
    """
    return bool(torch._C._current_graph_task_id() != -1)
