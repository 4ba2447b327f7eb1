"""Emulation of a device on meta tensors: fused attention, mixed precision, quantised products.

All three are decided by a device's dispatcher or by packed weights, which meta tensors never reach.
They change what autograd keeps, so they are emulated: attention through transformers' registry, the
rest at the level of torch functions.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from ftcli.models.attention import documents_attention

#: Functions that autocast runs in the lower type (torch's list for CPU and CUDA, what models use of it).
LOWERED = {
    functional.linear, functional.conv1d, functional.conv2d, torch.matmul, torch.Tensor.matmul,
    torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm, torch.bmm, torch.Tensor.bmm, torch.addmm,
    torch.baddbmm, torch.einsum,
}  # fmt: skip


class DeviceArithmetic(TorchFunctionMode):
    """Mode in which products of meta tensors keep what those of real tensors keep.

    Args:
        autocast: the type that `LOWERED` run in; None: no autocast.
        quantised: ids of the weights that will be stored quantised.
    """

    def __init__(self, autocast: torch.dtype | None, quantised: Collection[int]) -> None:
        super().__init__()
        self.autocast, self.quantised = autocast, quantised
        self.casts: dict[int, Tensor] = {}  # trained weights are cast once a forward pass

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Multiply with packed weights as bitsandbytes does; cast what autocast casts."""
        kwargs = kwargs or {}
        if func is functional.linear:
            inputs, weight = _linear_arguments(args, kwargs)
            if id(weight) in self.quantised:
                return _QuantisedLinear.apply(inputs, weight)
        if self.autocast is not None and func in LOWERED:
            args = tuple(self._cast(value) for value in args)
            kwargs = {name: self._cast(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self.autocast)
        if id(value) not in self.casts:
            self.casts[id(value)] = value.to(self.autocast)
        return self.casts[id(value)]


def _linear_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return inputs and weight of a call of `linear`, given by position or by name."""
    named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return named["input"], named["weight"]


def attention_name(device: str) -> str:
    """Return the name under which attention of "cpu" or "cuda" is registered in transformers."""
    return f"planned_on_{device}"


def _attention(
    device: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Keep what `ftcli.models.attention` keeps of full rows: query [B, H, T, D] -> [B, T, H, D].

    CPUs attend in float32. Capped scores have no fused kernel and are kept whole.
    """
    if softcap is not None:
        return documents_attention(module, query, key, value, None, 0.0, scaling, softcap=softcap)
    heads = query.shape[1] // key.shape[1]
    states = [query, repeat_kv(key, heads), repeat_kv(value, heads)]
    if device == "cpu":
        states = [x.float() for x in states]
    out = _FusedAttention.apply(*states)
    return torch.cat([out.transpose(1, 2)]).to(query.dtype), None


for _device in ("cpu", "cuda"):
    AttentionInterface.register(attention_name(_device), partial(_attention, _device))


class _FusedAttention(torch.autograd.Function):
    """Keeps what flash attention keeps (arXiv 2205.14135): inputs, output, one number a row of scores.

    query [B, H, T, D], key and value [B, H, T, D] -> [B, H, T, D]; linear in T.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        shape = (batch, length, heads, value.shape[-1])
        out = torch.empty(shape, dtype=query.dtype, device=query.device).transpose(1, 2)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("a plan computes no gradients")


class _QuantisedLinear(torch.autograd.Function):
    """A product with a frozen packed weight [out, in]: keeps nothing, returns its input's type.

    Autocast does not reach it: bitsandbytes casts to its compute type and back.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        return inputs.new_empty(*inputs.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("a plan computes no gradients")
