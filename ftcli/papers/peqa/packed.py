"""Weights as packed integers of 2, 3, 4 or 8 bits: codes, scales and zero points.

A row [in] is divided into groups with a common scale s and zero point z; the whole row is one group
unless a group size is given. The integers are wbar = clamp(round(w / s) + z, 0, 2^bits - 1) - z, and
the weight they represent is s * wbar (PEQA, arXiv 2305.14152, equation 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ftcli.models.packed_codes import get_packing, group_count, packed_width

Search = Literal["minmax", "mse"]
#: Shares of the full range that search=mse tries.
SHARES = tuple(1 - 0.02 * i for i in range(36))
FP32, BYTE = 4, 1


@dataclass(frozen=True)
class QuantisedMatrix:
    """A matrix [n, m] as integer codes that are not packed.

    Attributes:
        codes: uint8 [n, m], 0 .. 2^bits - 1.
        scale: float32 [n, groups].
        zero: uint8 [n, groups], the code of the weight 0.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def integers(self) -> Tensor:
        """Return codes - zero, int16 [n, m], within -zero .. 2^bits - 1 - zero."""
        groups = self.zero.shape[1]
        codes = self.codes.to(torch.int16).unflatten(1, (groups, -1))
        return (codes - self.zero.to(torch.int16).unsqueeze(-1)).flatten(1)

    def weight(self) -> Tensor:
        """Return the weight that the codes represent, float32 [n, m]."""
        return apply_scale(self.integers(), self.scale)


def quantise(
    weight: Tensor, bits: int, group_size: int | None = None, search: Search = "mse"
) -> QuantisedMatrix:
    """Round a matrix [n, m] to the nearest integers of an asymmetric grid, in float32.

    Args:
        group_size: entries of a row that share a scale; None: the whole row.
        search: `minmax` spans the smallest to the largest entry of a group and always includes 0; `mse`
            takes the share of that range with the least squared error in each group.

    Raises:
        ValueError: there is no packing for this number of bits, or group_size does not divide a row.
    """
    get_packing(bits)
    groups = group_count(weight.shape[1], group_size)
    values = weight.detach().float().unflatten(1, (groups, -1))  # [n, groups, group]
    low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
    scale, zero = _grid(low, high, bits)
    if search == "mse":
        scale, zero = _least_error(values, low, high, bits)
    codes = _codes(values, scale, zero, bits).to(torch.uint8)
    return QuantisedMatrix(codes.flatten(1), scale, zero.to(torch.uint8))


def apply_scale(integers: Tensor, scale: Tensor) -> Tensor:
    """Return scale * integers [n, m] in the scale's dtype; scale is [n, groups]."""
    grouped = integers.to(scale.dtype).unflatten(1, (scale.shape[1], -1))
    return (grouped * scale.unsqueeze(-1)).flatten(1)


def stored_bytes(
    rows: int,
    columns: int,
    bits: int,
    group_size: int | None = None,
    scale_bytes: int = FP32,
    zero_bytes: int = BYTE,
) -> int:
    """Return the bytes of a matrix: packed codes, and a scale and a zero point for each group."""
    groups = rows * group_count(columns, group_size)
    return rows * packed_width(columns, bits) + groups * (scale_bytes + zero_bytes)


def bits_per_weight(
    columns: int, bits: int, group_size: int | None = None, scale_bytes: int = FP32
) -> float:
    """Return the stored bits a weight for rows of `columns`, scale and zero point included."""
    return 8 * stored_bytes(1, columns, bits, group_size, scale_bytes) / columns


def _grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of an evenly spaced grid from `low` <= 0 to `high` >= 0."""
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(
        scale > 0, scale, torch.ones_like(scale)
    )  # all weights of the group are zero
    return scale, (-low / scale).round().clamp(0, 2**bits - 1)


def _codes(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Return the nearest codes of values [n, groups, group], as floats."""
    codes = (values / scale.unsqueeze(-1)).round() + zero.unsqueeze(-1)
    return codes.clamp(0, 2**bits - 1)


def _least_error(values: Tensor, low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point with the least squared error in each group, over SHARES of its range."""
    best, scale, zero = None, low, low
    for share in SHARES:
        s, z = _grid(low * share, high * share, bits)
        rounded = (_codes(values, s, z, bits) - z.unsqueeze(-1)) * s.unsqueeze(-1)
        error = (rounded - values).square().sum(-1)
        if best is None:
            best, scale, zero = error, s, z
            continue
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, s, scale), torch.where(better, z, zero)
    return scale, zero
