"""What a forward pass leaves in memory for its backward pass, found by running it on the meta device.

A meta tensor has a shape and no memory, so the real code of model, method and attention runs in
milliseconds for a model of any size, and autograd's saved-tensor hooks say what it keeps. No table
of model families is needed, and adapters, dropout masks and casts are counted as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ftcli.models.anatomy import Anatomy
from ftcli.planning.emulation import DeviceArithmetic, attention_of


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of one micro-batch, for two ways of training.

    Let S_i be what block i keeps, x_i its input, and E what is kept outside of blocks. Then

        kept as they are        E + sum_i S_i
        gradient checkpointing  E + sum_i x_i, and max_i S_i while a block is run again

    Attributes:
        outside: E.
        blocks: S_i, each storage counted for the first block that keeps it.
        inputs: x_i.
        largest: the largest single storage, by which transient gradients are sized.
    """

    outside: int
    blocks: tuple[int, ...]
    inputs: tuple[int, ...]
    largest: int

    def kept(self, checkpointing: bool = False) -> int:
        """What is there when the backward pass begins."""
        return self.outside + sum(self.inputs if checkpointing else self.blocks)

    @property
    def block(self) -> int:
        """What running one block again adds."""
        return max(self.blocks, default=0)


@dataclass
class _Ledger:
    """Storages seen by the hooks, by the block that was running."""

    own: set[int]  # parameters and buffers: there with or without a forward pass
    block: int | None = None
    kept: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    inputs: dict[int, int] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)  # an address must not be used twice

    def keep(self, tensor: Tensor) -> Tensor:
        sparse = tensor.layout == torch.sparse_coo
        for part in (tensor._indices(), tensor._values()) if sparse else (tensor,):
            storage = part.untyped_storage()
            if storage._cdata not in self.own and storage._cdata not in self.kept:
                self.kept[storage._cdata] = (self.block, storage.nbytes())
                self.alive.append(storage)
        return tensor


def trace(
    model: nn.Module,
    rows: int,
    length: int,
    autocast: torch.dtype | None = None,
    device: str = "cpu",
    quantised: Collection[int] = (),
    inputs: dict[str, Tensor] | None = None,
) -> Activations:
    """What training keeps of `rows` sequences of `length` tokens, up to the input of the head.

    Args:
        model: prepared by its method, on the meta device; or small, on the CPU.
        autocast: the type that matrix products run in, None for the weights' own.
        device: the kind of device the training will run on, "cpu" or "cuda".
        quantised: ids of the weights that will be stored quantised.
        inputs: what the model is given where that is no text.
    """
    model.train()
    tensors = [*model.parameters(), *model.buffers()]
    ledger = _Ledger({tensor.untyped_storage()._cdata for tensor in tensors})
    blocks = [module for _, module in Anatomy(model).blocks]
    with (
        saved_tensors_hooks(ledger.keep, lambda tensor: tensor),
        _watched(blocks, ledger),
        DeviceArithmetic(autocast, quantised),
    ):
        if inputs is None:
            forward(model, rows, length, device)
        else:
            place = next(model.parameters()).device
            model(**{name: tensor.to(place) for name, tensor in inputs.items()})
    return _summed(ledger, len(blocks))


def forward(model: nn.Module, rows: int, length: int, device: str) -> Tensor:
    """Hidden states [rows, length, d] before the head.

    Fused attention keeps the same for packed and for padded rows. Eager attention, where the model
    asks for it, keeps `length` x `length` probabilities of each row and head.
    """
    from ftcli.objectives.causal_lm import final_hidden

    config: Any = model.config
    mask = None
    if config._attn_implementation == "eager":  # a mask of two dimensions would be read
        mask = torch.zeros(1, 1, length, length)
    else:
        config._attn_implementation = attention_of(device)
    ids = torch.zeros(rows, length, dtype=torch.long)
    batch = {"input_ids": ids, "position_ids": None, "attention_mask": mask}
    return final_hidden(model, batch, next(model.parameters()).device)[0]


@contextmanager
def _watched(blocks: list[nn.Module], ledger: _Ledger) -> Iterator[None]:
    """While this lasts the ledger knows which block runs, and the size of each block's input."""

    def enter(index: int) -> Any:
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


def _summed(ledger: _Ledger, blocks: int) -> Activations:
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
