"""Rounding of W = W0 + alpha B A with trained scales and offsets, and its product with a backward of its own.

A row [in] is divided into groups of `group_size` weights with a common scale s and offset b:
w = (W - b) / s, q = round(clamp(w, QN, QP)), Wq = s q + b, with QN = -2^(bits-1) and
QP = 2^(bits-1) - 1 (L4Q, arXiv 2402.04902; the offsets are those of LSQ+, arXiv 2004.09576).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

from ftcli.models.mixed_precision import disable_autocast, get_product_dtype

Start = Literal["l4q", "lsq"]
#: Least scale: s must stay positive, and a group of zeros would otherwise have none.
FLOOR = 1e-8


def bounds(bits: int) -> tuple[int, int]:
    """Return QN and QP, the least and the largest integer."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def initial_scale(weight: Tensor, bits: int, group_size: int, start: Start = "l4q") -> Tensor:
    """Return a scale for each group of a weight [out, in], float32 [out, in / group_size].

    `l4q` clips nothing: s = max(|min W / QN|, |max W / QP|), next float32 above, since a quotient that
    rounds up would put the largest weight outside the range. `lsq` is LSQ+'s start, which clips what is
    further than three deviations from the mean: s = max(|mean - 3 std|, |mean + 3 std|) / 2^(bits-1).
    """
    low, high = bounds(bits)
    grouped = weight.detach().float().unflatten(1, (-1, group_size))
    if start == "lsq":
        mean, spread = grouped.mean(-1), 3 * grouped.std(-1, correction=0)
        scale = torch.maximum((mean - spread).abs(), (mean + spread).abs()) / -low
    else:
        scale = torch.maximum((grouped.amin(-1) / low).abs(), (grouped.amax(-1) / high).abs())
        scale = torch.nextafter(scale, torch.full_like(scale, torch.inf))
    return scale.clamp(min=FLOOR)


@dataclass(frozen=True)
class Rounded:
    """A weight [out, in] in groups [out, groups, group_size], before and after rounding.

    Attributes:
        ratio: w = (W - b) / s.
        integers: q, whole numbers in a floating dtype.
        scale, offset: [out, groups, 1]; the scale not below FLOOR.
    """

    ratio: Tensor
    integers: Tensor
    scale: Tensor
    offset: Tensor

    @property
    def weight(self) -> Tensor:
        """Wq = s q + b, [out, in]."""
        return (self.scale * self.integers + self.offset).flatten(1)


def round_weight(weight: Tensor, scale: Tensor, offset: Tensor, bits: int) -> Rounded:
    """Round a weight [out, in] with scales and offsets [out, groups]."""
    s, b = scale.clamp(min=FLOOR).unsqueeze(-1), offset.unsqueeze(-1)
    ratio = (weight.unflatten(1, (scale.shape[1], -1)) - b) / s
    return Rounded(ratio, ratio.clamp(*bounds(bits)).round(), s, b)


class RoundedProduct(Function):
    """y = x Wq^T with Wq rounded from W0 + alpha B A; backward keeps x and the parameters alone.

    W, w, q and Wq are computed again in backward. The gradient G = gy^T x of Wq is formed for one layer,
    reduced to those of A, B, s and b, and dropped. With M = 1[QN <= w <= QP]:
    dL/ds = sum over a group of G (M (q - w) + 1[w < QN] QN + 1[w > QP] QP), dL/db = sum of G (1 - M),
    dL/dA = alpha B^T (G M), dL/dB = alpha (G M) A^T. In a group whose scale is at its floor the gradient
    passes as if there were no floor, so that it can grow again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        offset: Tensor,
        alpha: float,
        bits: int,
    ) -> Tensor:
        """Map x [.., in] to [.., out]; base [out, in], a [r, in], b [out, r], scale and offset [out, groups]."""
        ctx.save_for_backward(x, base, a, b, scale, offset)
        ctx.alpha, ctx.bits = alpha, bits
        dtype = get_product_dtype(x)
        with disable_autocast(x):
            rounded = round_weight(sum_weight(base, a, b, alpha), scale, offset, bits)
            return nn.functional.linear(x.to(dtype), rounded.weight.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A, B, s and b; the base is frozen."""
        (grad,), (x, base, a, b, scale, offset) = grads, ctx.saved_tensors
        low, high = bounds(ctx.bits)
        to_x, to_parameters = None, (None, None, None, None)
        with disable_autocast(x):
            rounded = round_weight(sum_weight(base, a, b, ctx.alpha), scale, offset, ctx.bits)
            if ctx.needs_input_grad[0]:
                to_x = (grad @ rounded.weight.to(grad.dtype)).to(x.dtype)
            if any(ctx.needs_input_grad[2:6]):
                dense = (grad.flatten(0, -2).T @ x.to(grad.dtype).flatten(0, -2)).to(scale.dtype)
                grouped = dense.view_as(rounded.ratio)
                below, above = rounded.ratio < low, rounded.ratio > high
                inside = ~(below | above)
                slope = torch.where(inside, rounded.integers - rounded.ratio, rounded.integers)
                to_offset = (grouped * ~inside).sum(-1)
                masked = (grouped * inside).flatten(1)
                to_a, to_b = ctx.alpha * (b.T @ masked), ctx.alpha * (masked @ a.T)
                to_parameters = (to_a, to_b, (grouped * slope).sum(-1), to_offset)
        return to_x, None, *to_parameters, None, None


def sum_weight(base: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return W0 + alpha B A [out, in] in the dtype of the factors."""
    return base.to(a.dtype) + alpha * (b @ a)
