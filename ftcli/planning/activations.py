"""Bytes that a forward pass keeps for its backward pass, measured by running it on the meta device.

A meta tensor has a shape and no memory, so the real code of model, method and attention runs in
milliseconds for a model of any size, and autograd's saved-tensor hooks show what it keeps. No table
of model families is needed, and adapters, dropout masks and casts are counted as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ftcli.models.anatomy import Anatomy
from ftcli.planning.emulation import DeviceArithmetic, attention_name


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of one micro-batch, without and with gradient checkpointing.

    Let S_i be what block i keeps, x_i its input, and E what is kept outside of blocks. Then

        without                 E + sum_i S_i
        gradient checkpointing  E + sum_i x_i, and max_i S_i while a block is recomputed

    Attributes:
        outside: E.
        blocks: S_i, each storage counted for the first block that keeps it.
        inputs: x_i.
        largest_storage: the largest single storage, by which transient gradients are sized.
    """

    outside: int
    blocks: tuple[int, ...]
    inputs: tuple[int, ...]
    largest_storage: int

    def kept_bytes(self, checkpointing: bool = False) -> int:
        """Return the bytes kept when the backward pass begins."""
        return self.outside + sum(self.inputs if checkpointing else self.blocks)

    @property
    def largest_block(self) -> int:
        """Bytes that recomputing a block adds, at most."""
        return max(self.blocks, default=0)


@dataclass
class _Ledger:
    """Storages seen by the hooks, each with the block that was running."""

    weights: set[int]  # parameters and buffers: not kept by the forward pass
    block: int | None = None
    kept: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    inputs: dict[int, int] = field(default_factory=dict)
    alive: list[torch.UntypedStorage] = field(
        default_factory=list
    )  # so that no address is used twice

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a saved tensor's storages and return the tensor."""
        sparse = tensor.layout == torch.sparse_coo
        for part in (tensor._indices(), tensor._values()) if sparse else (tensor,):
            storage = part.untyped_storage()
            if storage._cdata not in self.weights and storage._cdata not in self.kept:
                self.kept[storage._cdata] = (self.block, storage.nbytes())
                self.alive.append(storage)
        return tensor


def trace_activations(
    model: nn.Module,
    rows: int,
    length: int,
    autocast: torch.dtype | None = None,
    device: str = "cpu",
    quantised: Collection[int] = (),
    inputs: dict[str, Tensor] | None = None,
) -> Activations:
    """Run the forward pass of `rows` sequences of `length` tokens, up to the head; count what is kept.

    Args:
        model: prepared by its method, on the meta device; or small, on the CPU.
        autocast: the type that matrix products run in, None for that of the weights.
        device: the kind of device the training will run on, "cpu" or "cuda".
        quantised: ids of the weights that will be stored quantised.
        inputs: keyword arguments of a model whose input is no text.
    """
    model.train()
    tensors = [*model.parameters(), *model.buffers()]
    ledger = _Ledger({tensor.untyped_storage()._cdata for tensor in tensors})
    blocks = [module for _, module in Anatomy(model).blocks]
    with (
        saved_tensors_hooks(ledger.keep, lambda tensor: tensor),
        _watch(blocks, ledger),
        DeviceArithmetic(autocast, quantised),
        torch.autocast(
            "cpu", autocast, enabled=autocast is not None
        ),  # layers ask whether it is on
    ):
        if inputs is None:
            compute_hidden(model, rows, length, device)
        else:
            place = next(model.parameters()).device
            model(**{name: tensor.to(place) for name, tensor in inputs.items()})
    return _sum_up(ledger, len(blocks))


def compute_hidden(model: nn.Module, rows: int, length: int, device: str) -> Tensor:
    """Return the hidden states [rows, length, d] before the head, with attention as on `device`.

    Fused attention keeps the same for packed and for padded rows. Eager attention, where the model
    asks for it, keeps `length` x `length` probabilities of each row and head.
    """
    from ftcli.objectives.causal_lm import compute_hidden_and_head

    config: Any = model.config
    mask = None
    if (
        config._attn_implementation == "eager"
    ):  # the values of a mask of two dimensions would be read
        mask = torch.zeros(1, 1, length, length)
    else:
        config._attn_implementation = attention_name(device)
    ids = torch.zeros(rows, length, dtype=torch.long)
    batch = {"input_ids": ids, "position_ids": None, "attention_mask": mask}
    return compute_hidden_and_head(model, batch, next(model.parameters()).device)[0]


@contextmanager
def _watch(blocks: list[nn.Module], ledger: _Ledger) -> Iterator[None]:
    """Tell the ledger inside which block runs, and the size of each block's input."""

    def enter(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            ledger.block = index
            if hidden is not None:
                ledger.inputs[index] = hidden.numel() * hidden.element_size()

        return hook

    def leave(*_: Any) -> None:
        ledger.block = None

    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            handles = (
                block.register_forward_pre_hook(enter(index), with_kwargs=True),
                block.register_forward_hook(leave),
            )
            for handle in handles:
                stack.callback(handle.remove)
        yield


def _sum_up(ledger: _Ledger, blocks: int) -> Activations:
    kept = [0] * blocks
    outside = 0
    for block, size in ledger.kept.values():
        if block is None:
            outside += size
        else:
            kept[block] += size
    return Activations(
        outside,
        tuple(kept),
        tuple(ledger.inputs.get(index, 0) for index in range(blocks)),
        max((size for _, size in ledger.kept.values()), default=0),
    )
