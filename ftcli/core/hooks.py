"""Taps on modules: what goes in, what comes out, and the gradients of both, for as long as asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

What = Literal["input", "output", "input_gradient", "output_gradient"]
#: Name of a tap and the tensor it saw -> what is kept of it.
Read = Callable[[str, Tensor], Any]

_muted = 0


class Probes:
    """Taps on named modules. Between `begin` and `end`, or in a `with` block, every call is read.

    What `read` makes of a tensor is kept under the name of its tap, one item a call, until `take` or
    `end`; by default that is the tensor itself with its graph. A module that is called twice is read
    twice, in the order of the calls.

    Gradient checkpointing (not reentrant) runs a module once more in backward. The tap reads that
    call too, because a recomputation must save the tensors the first one saved, but keeps nothing of
    it. So `end` comes after backward, not before. A `read` that reduces what it sees thus costs no
    more memory than the checkpointed forward pass.

    Args:
        modules: name of a tap -> the module.
        read: for `input` and `output` called in the forward pass, with its graph.
        what: the first positional argument, the output (its first tensor), or the gradient of either
            as it arrives in backward.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], read: Read | None = None, what: What = "output"
    ) -> None:
        self.modules, self.what = dict(modules), what
        self._read: Read = read or (lambda name, tensor: tensor)
        self._found: dict[str, list[Any]] = {}
        self._hooks: list[Any] = []

    def begin(self) -> None:
        """Forget what was read, and attach the taps unless they are."""
        self._found = {}
        if not self._hooks:
            self._hooks = [self._attach(name, module) for name, module in self.modules.items()]

    def take(self) -> dict[str, list[Any]]:
        """What was read since `begin`, by tap; it is not held any longer. The taps stay attached."""
        found, self._found = self._found, {}
        return found

    def end(self) -> None:
        """Take the taps off and forget what was read; does nothing where that is done."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._found = [], {}

    def __enter__(self) -> Probes:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _attach(self, name: str, module: nn.Module) -> Any:
        if self.what.startswith("input"):
            return module.register_forward_pre_hook(lambda _, args: self._see(name, args))
        return module.register_forward_hook(lambda _, args, output: self._see(name, output))

    def _see(self, name: str, value: Any) -> None:
        tensor = value if isinstance(value, Tensor) else value[0]
        if _muted:
            return
        if not self.what.endswith("gradient"):
            self._keep(name, self._read(name, tensor))
        elif tensor.requires_grad and not in_backward():  # of a recomputation no gradient is asked
            tensor.register_hook(lambda gradient: self._receive(name, gradient))

    def _receive(self, name: str, gradient: Tensor) -> None:
        if self._hooks:  # backward may come after the end
            self._found.setdefault(name, []).append(self._read(name, gradient))

    def _keep(self, name: str, reading: Any) -> None:
        if not in_backward():
            self._found.setdefault(name, []).append(reading)


@contextmanager
def hooks_disabled() -> Iterator[None]:
    """Forward passes that are not the student's: no tap sees them."""
    global _muted
    _muted += 1
    try:
        yield
    finally:
        _muted -= 1


def in_backward() -> bool:
    """Whether autograd is at work in this thread, so that a forward pass now is a recomputation.

    torch's own checkpointing asks the same function; there is no public name for it.
    """
    return bool(torch._C._current_graph_task_id() != -1)
