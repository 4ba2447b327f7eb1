"""Parameters of a prepared model and the bytes they will take, counted on the meta device."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from ftcli.models.anatomy import Anatomy
from ftcli.models.bits import stored_bytes


@dataclass(frozen=True)
class Weights:
    """What is stored and what is trained; sizes in bytes.

    Attributes:
        parameters: of the base model, tied tensors once.
        trainable: entries that require a gradient.
        adapter_parameters: entries that the method has added.
        quantised_parameters: entries that are stored quantised.
        quantised: their bytes as packed codes with scales.
        rest: bytes of the base model's other weights.
        adapter: bytes of what the method has added.
        trained_bytes: bytes of the trained tensors, and of their gradients, which have their type.
        dequantised: bytes of the largest weight while a product unpacks it.
        trained: name, shape and type of every trainable tensor.
    """

    parameters: int
    trainable: int
    adapter_parameters: int
    quantised_parameters: int
    quantised: int
    rest: int
    adapter: int
    trained_bytes: int
    dequantised: int
    trained: tuple[tuple[str, tuple[int, ...], Any], ...]

    @property
    def base(self) -> int:
        """Bytes of the base model."""
        return self.quantised + self.rest

    def bytes_of(self, names: Container[str]) -> int:
        """Bytes of some of the trained tensors."""
        chosen = (one for one in self.trained if one[0] in names)
        return sum(prod(shape) * dtype.itemsize for _, shape, dtype in chosen)

    @property
    def bits(self) -> float | None:
        """Bits a quantised weight takes, scales counted; None without quantisation."""
        return 8 * self.quantised / self.quantised_parameters if self.quantised_parameters else None


def quantised_weights(model: nn.Module, quantization: str) -> dict[int, nn.Parameter]:
    """The weights that loading will quantise, by id: linears of the blocks that are not trained."""
    if quantization == "none":
        return {}
    weights = (linear.module.weight for linear in Anatomy(model).block_linears)
    return {id(w): w for w in weights if isinstance(w, nn.Parameter) and not w.requires_grad}


def weigh(model: nn.Module, quantization: str = "none", double_quant: bool = True) -> Weights:
    """Count a model that its method has prepared.

    Args:
        quantization: how the linears of the blocks will be stored: none, nf4, fp4 or int8.
        double_quant: whether the scales of nf4 and fp4 are quantised too.
    """
    packed = quantised_weights(model, quantization)
    anatomy = Anatomy(model)
    base = {id(p): p for m in anatomy.modules.values() for p in m.parameters(recurse=False)}
    added = [p for p in model.parameters() if id(p) not in base]
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trained = [p for _, p in named]
    return Weights(
        parameters=anatomy.parameters(),
        trainable=sum(p.numel() for p in trained),
        adapter_parameters=sum(p.numel() for p in added),
        quantised_parameters=sum(p.numel() for p in packed.values()),
        quantised=sum(
            stored_bytes(w.shape[0], w.shape[1], quantization, double_quant).total
            for w in packed.values()
        ),
        rest=sum(size(p) for key, p in base.items() if key not in packed),
        adapter=sum(size(p) for p in added),
        trained_bytes=sum(size(p) for p in trained),
        dequantised=max((size(p) for p in packed.values()), default=0),
        trained=tuple((name, tuple(p.shape), p.dtype) for name, p in named),
    )


def size(parameter: nn.Parameter) -> int:
    """Bytes of a tensor that is stored as it is."""
    return parameter.numel() * parameter.element_size()
