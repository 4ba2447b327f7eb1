"""Weights as packed integers of 2, 3, 4 or 8 bits: codes, scales and zero points.

A row [in] is divided into groups with a common scale s and zero point z; the whole row is one group
unless a group size is given. The integers are wbar = clamp(round(w / s) + z, 0, 2^bits - 1) - z, and
the weight they represent is s * wbar (PEQA, arXiv 2305.14152, equation 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn

Search = Literal["minmax", "mse"]
#: Smallest number of codes that fill whole bytes: bits -> (codes, bytes).
PACKS = {2: (4, 1), 3: (8, 3), 4: (2, 1), 8: (1, 1)}
#: Shares of the full range that search=mse tries.
SHARES = tuple(1 - 0.02 * i for i in range(36))
FP32, BYTE = 4, 1


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes [.., m] of 0 .. 2^bits - 1 into bytes, uint8 [.., packed_width(m, bits)].

    Raises:
        ValueError: no packing for this number of bits.
    """
    count, size = _get_packing(bits)
    missing = -codes.shape[-1] % count
    groups = nn.functional.pad(codes.int(), (0, missing)).unflatten(-1, (-1, count))
    words = (groups << _shifts(count, bits, codes.device)).sum(-1, dtype=torch.int32)
    return (words.unsqueeze(-1) >> _shifts(size, 8, codes.device) & 255).to(torch.uint8).flatten(-2)


def unpack(packed: Tensor, bits: int, width: int) -> Tensor:
    """Return the codes that were packed, uint8 [.., width]; int8 bytes are read as unsigned."""
    count, size = _get_packing(bits)
    packed = packed.view(torch.uint8)
    if bits == 8:
        return packed
    words = packed if size == 1 else packed.int().unflatten(-1, (-1, size))
    if size > 1:
        words = (words << _shifts(size, 8, packed.device)).sum(-1, dtype=torch.int32)
    shifts = _shifts(count, bits, packed.device).to(words.dtype)
    codes = words.unsqueeze(-1) >> shifts & (2**bits - 1)
    return codes.to(torch.uint8).flatten(-2)[..., :width]


def packed_width(width: int, bits: int) -> int:
    """Return the number of bytes of a packed row of `width` codes."""
    count, size = _get_packing(bits)
    return ceil(width / count) * size


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
    _get_packing(bits)
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


def group_count(width: int, group_size: int | None) -> int:
    """Return the number of groups of a row of `width` weights.

    Raises:
        ValueError: group_size does not divide the row.
    """
    size = group_size or width
    if size < 1 or width % size:
        raise ValueError(f"group_size={size} does not divide rows of {width} weights")
    return width // size


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


def _get_packing(bits: int) -> tuple[int, int]:
    if bits not in PACKS:
        raise ValueError(
            f"there is no packing for {bits} bits; choose one of {', '.join(map(str, PACKS))}"
        )
    return PACKS[bits]


def _shifts(count: int, bits: int, device: torch.device) -> Tensor:
    """Return the bit offsets of `count` codes within a word, int32 [count]."""
    return torch.arange(0, count * bits, bits, device=device, dtype=torch.int32)


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
