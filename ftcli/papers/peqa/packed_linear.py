"""A frozen linear layer of packed integers, with scales that can be shifted and trained (PEQA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

from ftcli.models.mixed_precision import disable_autocast, get_product_dtype
from ftcli.models.packed_codes import group_count, pack, packed_width, unpack
from ftcli.papers.peqa.packed import Search, apply_scale, quantise


class PackedLinear(nn.Module):
    """A frozen linear layer whose weight [out, in] is packed integers.

    Attributes:
        weight: the packed codes, int8 [out, packed_width]; int8 because T5 in transformers casts
            activations to the dtype of any weight that is not int8.
        zero: uint8 [out, groups].
        scale: float32 [out, groups].
        transposed: whether it replaces a Conv1D, which stores its weight as [in, out].
    """

    def __init__(self, linear: Any, bits: int, group_size: int | None, search: Search) -> None:
        super().__init__()
        self.transposed = hasattr(linear, "nf")
        weight = linear.weight.detach().T if self.transposed else linear.weight.detach()
        self.out_features, self.in_features = weight.shape
        self.bits, self.dtype = bits, weight.dtype
        if weight.device.type == "meta":
            codes, scale, zero = _shapes(weight, bits, group_size)
        else:
            matrix = quantise(weight, bits, group_size, search)
            codes, scale, zero = pack(matrix.codes, bits), matrix.scale, matrix.zero
        self.weight = nn.Parameter(codes.view(torch.int8), requires_grad=False)
        self.zero = nn.Parameter(zero, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def integers(self, dtype: torch.dtype = torch.int16) -> Tensor:
        """Return the integers wbar [out, in]; they are exact in any floating dtype."""
        codes = unpack(self.weight, self.bits, self.in_features)
        grouped = codes.to(dtype).unflatten(1, (self.zero.shape[1], -1))
        return (grouped - self.zero.to(dtype).unsqueeze(-1)).flatten(1)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Map [.., in] to [.., out], with `shift` [out, groups] added to the scales."""
        dtype = get_product_dtype(x)
        scale = self.scale if shift is None else self.scale + shift
        out = ScaledProduct.apply(x.to(dtype), scale, self)
        return out if self.bias is None else out + self.bias.to(dtype)

    def to_plain(self) -> nn.Module:
        """Return a linear layer (or Conv1D, where one was replaced) with the weight scale * wbar."""
        from transformers.pytorch_utils import Conv1D

        weight = apply_scale(self.integers(torch.float32), self.scale).to(self.dtype)
        shape = (self.out_features, self.in_features)
        with torch.device("meta"):
            layer: Any = Conv1D(*shape) if self.transposed else nn.Linear(*shape[::-1])
        layer.weight = nn.Parameter(weight.T.contiguous() if self.transposed else weight, False)
        layer.bias = self.bias
        return layer

    def extra_repr(self) -> str:
        """Return shape, bits and groups, for print(model)."""
        groups = self.zero.shape[1]
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, groups={groups}"


class ScaledProduct(Function):
    """y = x (s * wbar)^T; backward keeps x and the scales, and unpacks the integers again.

    With one scale a row, y = s * (x wbar^T): the integers are exact also in bfloat16, and the scale
    multiplies the product in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, layer: PackedLinear) -> Tensor:
        """Map x [.., in] to [.., out] in the dtype of x."""
        ctx.save_for_backward(x, scale)
        ctx.layer = layer
        integers = layer.integers(x.dtype)
        with disable_autocast(x):
            if scale.shape[1] > 1:
                return nn.functional.linear(x, apply_scale(integers, scale).to(x.dtype))
            return (nn.functional.linear(x, integers) * scale[:, 0]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return dL/dx, and dL/ds, which for a group is the sum of dL/dw * wbar over the group."""
        (grad,), (x, scale) = grads, ctx.saved_tensors
        integers = ctx.layer.integers(x.dtype)
        to_x = to_scale = None
        with disable_autocast(x):
            if ctx.needs_input_grad[0] and scale.shape[1] > 1:
                to_x = grad @ apply_scale(integers, scale).to(grad.dtype)
            elif ctx.needs_input_grad[0]:
                to_x = (grad * scale[:, 0]).to(grad.dtype) @ integers
            if ctx.needs_input_grad[1]:
                dense = grad.flatten(0, -2).T @ x.flatten(0, -2)
                products = (dense.to(scale.dtype) * integers).unflatten(1, (scale.shape[1], -1))
                to_scale = products.sum(-1)
        return to_x, to_scale, None


def _shapes(weight: Tensor, bits: int, group_size: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty codes, scales and zero points on the meta device, for `ftcli plan`."""
    rows, columns = weight.shape
    groups = group_count(columns, group_size)
    codes = weight.new_empty(rows, packed_width(columns, bits), dtype=torch.uint8)
    scale = weight.new_empty(rows, groups, dtype=torch.float32)
    return codes, scale, weight.new_empty(rows, groups, dtype=torch.uint8)
