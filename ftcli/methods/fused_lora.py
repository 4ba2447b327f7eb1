"""LoRA beside a frozen weight as one autograd function, where products run in half precision.

PEFT's layers compute y = x W^T + s (x A^T) B^T (arXiv 2106.09685, equation 3) as separate operations.
On a CPU they also cast the input to float32 and back, since they look for autocast on CUDA only, and
autograd keeps the input twice and every result. Here x, s x A^T, A and B are kept, W is dequantised or
cast once more in backward, and products add to what is there. In float32 PEFT's own forward runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def install_fused_forward(model: nn.Module) -> None:
    """Let the plain LoRA layers of a model compute in one function; other layers stay PEFT's."""
    from peft.tuners import lora

    layers = {lora.Linear, getattr(lora, "Linear4bit", lora.Linear)}
    for module in model.modules():
        if type(module) in layers:
            module.__class__ = _fused_class(type(module))  # type: ignore[arg-type]


@cache
def _fused_class(layer_class: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a LoRA layer of PEFT that computes in one function where it can."""
    return type(layer_class.__name__, (_FusedForward, layer_class), {})


class _FusedForward(nn.Module):
    """Forward pass of a layer with one plain adapter; PEFT's forward runs in all other cases."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return x [.., in] times the adapted weight: [.., out]."""
        dtype = _product_dtype(x)
        if dtype not in HALF or args or kwargs or not self._is_plain(x, dtype):
            return torch.as_tensor(super().forward(x, *args, **kwargs))
        layer: Any = self
        name, base = layer.active_adapters[0], layer.get_base_layer()
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        y = _LoraProduct.apply(x.to(dtype), a, b, layer.scaling[name], base)
        if base.bias is not None:
            y = y + base.bias.to(dtype)
        return y.to(x.dtype) if _is_packed(base) else y  # as the base layer alone would return

    def _is_plain(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Whether there is one active adapter of two matrices, beside a frozen weight without hooks."""
        layer: Any = self
        base = layer.get_base_layer()
        if torch.compiler.is_compiling() or layer.disable_adapters or layer.merged:
            return False
        if len(layer.active_adapters) != 1 or layer.active_adapters[0] not in layer.lora_A:
            return False
        name = layer.active_adapters[0]
        small = (layer.lora_A[name], layer.lora_B[name])
        if not _autocasts(x) and any(part.weight.dtype != dtype for part in small):
            return False  # PEFT's products are in float32 then
        if any(type(part) is not nn.Linear or part.bias is not None for part in small):
            return False
        if name in layer.lora_variant or _drops(layer.lora_dropout[name]):
            return False
        if any(part._forward_hooks or part._forward_pre_hooks for part in (base, *small)):
            return False
        if _is_packed(base):
            return base.compute_dtype in (None, dtype)
        return type(base) is nn.Linear and not any(p.requires_grad for p in base.parameters())


class _LoraProduct(torch.autograd.Function):
    """y = x W^T + s (x A^T) B^T for x [.., in] of half precision, W [out, in], A [r, in], B [out, r].

    All products run in the type of x; gradients of A and B have the types of A and B.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, base: nn.Module) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        half_a, half_b = a.to(x.dtype), b.to(x.dtype)
        low = (rows @ half_a.t()).mul_(scale)
        y = rows @ _frozen_weight(base, x.dtype).t()
        y.addmm_(low, half_b.t())
        ctx.save_for_backward(rows, low, half_a, half_b)
        ctx.base, ctx.scale, ctx.types, ctx.shape = base, scale, (a.dtype, b.dtype), x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, half_a, half_b = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_low = (grad @ half_b).mul_(ctx.scale)
        grad_a = (grad_low.t() @ rows).to(ctx.types[0]) if ctx.needs_input_grad[1] else None
        grad_b = (grad.t() @ low).to(ctx.types[1]) if ctx.needs_input_grad[2] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ _frozen_weight(ctx.base, grad.dtype)
            grad_x = grad_x.addmm_(grad_low, half_a).view(ctx.shape)
        return grad_x, grad_a, grad_b, None, None


def _frozen_weight(base: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight [out, in] of a linear layer, dequantised where it is packed."""
    if not _is_packed(base):
        return torch.as_tensor(base.weight.to(dtype))
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import fix_4bit_weight_quant_state_from_module

    fix_4bit_weight_quant_state_from_module(base)
    return torch.as_tensor(dequantize_4bit(base.weight.data, base.weight.quant_state).to(dtype))


def _is_packed(base: nn.Module) -> bool:
    """Whether the layer's weight is packed in 4 bits by bitsandbytes."""
    return type(base).__name__ == "Linear4bit"


def _drops(dropout: nn.Module) -> bool:
    """Whether the dropout of an adapter changes its input."""
    return not isinstance(dropout, nn.Identity) and dropout.training


def _autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of `x`; a plan on meta tensors is one of a CPU."""
    return torch.is_autocast_enabled("cpu" if x.device.type == "meta" else x.device.type)


def _product_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a matrix product of `x` runs here."""
    device = "cpu" if x.device.type == "meta" else x.device.type
    return torch.get_autocast_dtype(device) if _autocasts(x) else x.dtype
