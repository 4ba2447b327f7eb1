"""Record one forward pass of a frozen model at its blocks: their inputs and outputs.

The pass can also be replayed: blocks then return known states and compute nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


class Trace:
    """Arguments and outputs of the blocks of a backbone in one forward pass.

    Args:
        replay: outputs [B, T, d] of all blocks; None: the blocks compute them.
        tuples: whether blocks return a tuple with the hidden states first.

    Attributes:
        start: input of the first block [B, T, d].
        calls: positional and keyword arguments of each block, without the hidden states.
        outputs: output of each block [B, T, d].
        rotary: calls of the modules that compute rotary embeddings, by the id of their result.
    """

    def __init__(self, replay: Sequence[Tensor] | None = None, tuples: bool = False) -> None:
        self.replay, self.tuples = replay, tuples
        self.start: Tensor | None = None
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.outputs: list[Tensor] = []
        self.rotary: dict[int, tuple[str, tuple[Any, ...], dict[str, Any], Any]] = {}

    @contextmanager
    def record_blocks(self, backbone: nn.Module, blocks: nn.ModuleList) -> Iterator[Trace]:
        """Record all calls of the blocks within a `with` block."""
        originals = dict(blocks._modules)
        recorders = {n: _BlockRecorder(b, self) for n, b in originals.items() if b is not None}
        with ExitStack() as stack:
            for name, module in find_rotary_modules(backbone):
                stack.callback(self._hook_rotary(name, module).remove)
            blocks._modules.update(recorders)
            try:
                yield self
            finally:
                blocks._modules.update(originals)

    def _hook_rotary(self, name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            # the output is stored too: an id is unique only while its object exists
            self.rotary[id(output)] = (name, args, kwargs, output)

        return module.register_forward_hook(hook, with_kwargs=True)


class _BlockRecorder(nn.Module):
    """Module in the place of a block that records its calls and forwards attributes to it."""

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
        trace.outputs.append(get_hidden_states(output))
        return output


def get_hidden_states(output: Any) -> Tensor:
    """Return the hidden states from the output of a block."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def find_rotary_modules(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules of a backbone that compute rotary embeddings for all of its blocks."""
    for name, child in backbone.named_children():
        if any(n.endswith("inv_freq") for n, _ in child.named_buffers(recurse=False)):
            yield name, child
