"""Integer codes of 2, 3, 4 or 8 bits, packed into whole bytes, and groups of a row that share a scale."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

#: Smallest number of codes that fill whole bytes: bits -> (codes, bytes).
PACKS = {2: (4, 1), 3: (8, 3), 4: (2, 1), 8: (1, 1)}


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes [.., m] of 0 .. 2^bits - 1 into bytes, uint8 [.., packed_width(m, bits)].

    Raises:
        ValueError: no packing for this number of bits.
    """
    count, size = get_packing(bits)
    missing = -codes.shape[-1] % count
    groups = nn.functional.pad(codes.int(), (0, missing)).unflatten(-1, (-1, count))
    words = (groups << _shifts(count, bits, codes.device)).sum(-1, dtype=torch.int32)
    return (words.unsqueeze(-1) >> _shifts(size, 8, codes.device) & 255).to(torch.uint8).flatten(-2)


def unpack(packed: Tensor, bits: int, width: int) -> Tensor:
    """Return the codes that were packed, uint8 [.., width]; int8 bytes are read as unsigned.

    Raises:
        ValueError: no packing for this number of bits.
    """
    count, size = get_packing(bits)
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
    """Return the number of bytes of a packed row of `width` codes.

    Raises:
        ValueError: no packing for this number of bits.
    """
    count, size = get_packing(bits)
    return ceil(width / count) * size


def get_packing(bits: int) -> tuple[int, int]:
    """Return the smallest number of codes that fill whole bytes, and the number of these bytes.

    Raises:
        ValueError: no packing for this number of bits.
    """
    if bits not in PACKS:
        raise ValueError(
            f"there is no packing for {bits} bits; choose one of {', '.join(map(str, PACKS))}"
        )
    return PACKS[bits]


def group_count(width: int, group_size: int | None) -> int:
    """Return the number of groups of a row of `width` weights; None: the whole row is one group.

    Raises:
        ValueError: group_size does not divide the row.
    """
    size = group_size or width
    if size < 1 or width % size:
        raise ValueError(f"group_size={size} does not divide rows of {width} weights")
    return width // size


def _shifts(count: int, bits: int, device: torch.device) -> Tensor:
    """Return the bit offsets of `count` codes within a word, int32 [count]."""
    return torch.arange(0, count * bits, bits, device=device, dtype=torch.int32)
