"""One forward pass of a frozen model, watched at its blocks: what went in, what came out.

The pass can also be replayed: blocks then give back states that are known, and compute nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


class Trace:
    """What the blocks of a trunk were called with, and their outputs.

    Args:
        replay: outputs [B, T, d] of all blocks; None: the blocks compute them.
        tuples: whether blocks give their output as the first of several.

    Attributes:
        start: what goes into the first block [B, T, d].
        calls: arguments of each block, the hidden states left out.
        outputs: what each block puts out [B, T, d].
        rotary: calls of the modules that make rotary embeddings, by the id of what they gave.
    """

    def __init__(self, replay: Sequence[Tensor] | None = None, tuples: bool = False) -> None:
        self.replay, self.tuples = replay, tuples
        self.start: Tensor | None = None
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.outputs: list[Tensor] = []
        self.rotary: dict[int, tuple[str, tuple[Any, ...], dict[str, Any], Any]] = {}

    @contextmanager
    def watching(self, trunk: nn.Module, blocks: nn.ModuleList) -> Iterator[Trace]:
        """While this lasts, calls of the blocks come through here."""
        watched = {
            n: _Watched(block, self) for n, block in blocks._modules.items() if block is not None
        }
        before = dict(blocks._modules)
        with ExitStack() as stack:
            for name, module in rotary_modules(trunk):
                stack.callback(self._tap(name, module).remove)
            blocks._modules.update(watched)
            try:
                yield self
            finally:
                blocks._modules.update(before)

    def _tap(self, name: str, module: nn.Module) -> Any:
        def note(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            # what was given is kept, too: an id means something only as long as its object lives
            self.rotary[id(output)] = (name, args, kwargs, output)

        return module.register_forward_hook(note, with_kwargs=True)


class _Watched(nn.Module):
    """Stands where a block stood, and has the block's attributes."""

    def __init__(self, block: nn.Module, trace: Trace) -> None:
        super().__init__()
        self.block, self.trace = block, trace

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        trace = self.trace
        rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
        if trace.start is None:
            trace.start = args[0] if args else kwargs["hidden_states"]
        trace.calls.append((args[1:], rest))
        if trace.replay is None:
            output = self.block(*args, **kwargs)
            trace.tuples = isinstance(output, tuple)
        else:
            known = trace.replay[len(trace.outputs)]
            output = (known,) if trace.tuples else known
        trace.outputs.append(first(output))
        return output


def first(output: Any) -> Tensor:
    """The hidden states of what a block returns."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def rotary_modules(trunk: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of a trunk that make rotary embeddings for all of its blocks."""
    for name, child in trunk.named_children():
        if any(n.endswith("inv_freq") for n, _ in child.named_buffers(recurse=False)):
            yield name, child
