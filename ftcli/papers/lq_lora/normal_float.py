"""NormalFloat of any number of bits, with block scales that are quantised too (LQ-LoRA, section 2 and 3.3).

A matrix is read row by row in blocks of `block` weights, `superblock` blocks are a superblock. With s
the largest magnitude of a block, o = min s over the whole matrix (a minimum here, a mean in
bitsandbytes), u = s - o and g the largest u of a superblock in the dtype `superscale`: u is rounded to
`scale_bits` unsigned bits on the scale g, and weights to the nearest of 2^bits levels on the rounded scale
u' + o. The last block and superblock may be partial: they are filled up with zeros, which move no maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from ftcli.models.packed_codes import get_packing, pack, unpack

Superscale = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
OFFSET = 0.9677083  # probability of the level 1, as in bitsandbytes' NF4


@dataclass(frozen=True)
class Format:
    """How a matrix is stored; the default is NF4 with double quantisation."""

    bits: int = 4  # of a weight: 2, 3, 4 or 8
    scale_bits: int = 8  # of a block's scale: 2, 3, 4 or 8
    superscale: Superscale = "fp32"  # dtype of a superblock's scale
    block: int = 64  # weights that share a scale
    superblock: int = 256  # scales that share a second scale

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: there is no packing for these bits, no such dtype, or a size is not positive.
        """
        get_packing(self.bits), get_packing(self.scale_bits)
        if self.superscale not in DTYPES:
            raise ValueError(
                f"superscale={self.superscale!r} is unknown; choose one of {', '.join(DTYPES)}"
            )
        if min(self.block, self.superblock) < 1:
            raise ValueError("block and superblock must be positive")

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a weight of a matrix of whole superblocks: b + b0 / B0 + b1 / (B0 B1)."""
        second = 8 * DTYPES[self.superscale].itemsize / (self.block * self.superblock)
        return self.bits + self.scale_bits / self.block + second

    def count_bits(self, weights: int) -> int:
        """Count the stored bits of a matrix of so many weights, partial blocks included."""
        blocks = ceil(weights / self.block)
        second = 8 * DTYPES[self.superscale].itemsize * ceil(blocks / self.superblock)
        return self.bits * weights + self.scale_bits * blocks + second


@lru_cache
def compute_levels(bits: int) -> Tensor:
    """Return the 2^bits levels of NormalFloat in ascending order, float32, from -1 over 0 to 1.

    They are quantiles of the normal distribution whose quantile at OFFSET is 1, at even steps of
    probability: 2^(bits-1) from 1 - OFFSET to 1/2, and 2^(bits-1) + 1 from there to OFFSET.
    """
    half = 2 ** (bits - 1)
    low = torch.linspace(1 - OFFSET, 0.5, half, dtype=torch.float64)[:-1]
    high = torch.linspace(0.5, OFFSET, half + 1, dtype=torch.float64)
    end = torch.erfinv(torch.tensor(2 * OFFSET - 1, dtype=torch.float64)) * sqrt(2)
    quantiles = torch.erfinv(2 * torch.cat([low, high]) - 1) * sqrt(2)
    return (quantiles / end).float()


@dataclass(frozen=True)
class Quantised:
    """A matrix as codes that are not packed.

    Attributes:
        codes: int64 [blocks, block], numbers of levels.
        scale_codes: int64 [superblocks, superblock].
        superscales: [superblocks, 1] in their dtype.
        minimum: float32 [1], the least scale o of a block.
    """

    codes: Tensor
    scale_codes: Tensor
    superscales: Tensor
    minimum: Tensor
    format: Format
    shape: torch.Size

    def weight(self) -> Tensor:
        """Return the matrix that the codes stand for, float32."""
        levels = compute_levels(self.format.bits).to(self.codes.device)
        scales = _scales(self.scale_codes, self.superscales, self.minimum, self.format)
        weights = levels[self.codes] * scales[: len(self.codes), None]
        return weights.flatten()[: self.shape.numel()].view(self.shape)


def quantise(weight: Tensor, format: Format) -> Quantised:
    """Round a matrix to its nearest levels on quantised scales, in float32."""
    blocks = _fill(weight.detach().float().flatten(), format.block)
    scales = blocks.abs().amax(1)
    minimum = scales.min()[None]
    above = _fill(scales - minimum, format.superblock)
    superscales = above.amax(1, keepdim=True).to(DTYPES[format.superscale])
    steps = _steps(superscales, format)
    scale_codes = (above * steps).round().clamp(max=2**format.scale_bits - 1)
    rounded = _scales(scale_codes, superscales, minimum, format)[: len(blocks), None]
    ratios = blocks / torch.where(rounded > 0, rounded, torch.ones_like(rounded))
    levels = compute_levels(format.bits).to(ratios.device)
    codes = torch.bucketize(ratios, (levels[1:] + levels[:-1]) / 2)
    return Quantised(codes, scale_codes.long(), superscales, minimum, format, weight.shape)


def _fill(values: Tensor, size: int) -> Tensor:
    """Return a vector as rows of `size`, the last one filled up with zeros."""
    return nn.functional.pad(values, (0, -len(values) % size)).view(-1, size)


def _steps(superscales: Tensor, format: Format) -> Tensor:
    """Return steps a unit of scale; 1 in a superblock of equal scales."""
    wide = superscales.float()
    return torch.where(wide > 0, (2**format.scale_bits - 1) / wide, torch.ones_like(wide))


def _scales(codes: Tensor, superscales: Tensor, minimum: Tensor, format: Format) -> Tensor:
    """Return the rounded scales u' + o, float32 [blocks of whole superblocks]."""
    return (codes / _steps(superscales, format) + minimum).flatten()


class PackedNormalFloat(nn.Module):
    """A quantised matrix in packed bytes, or nothing yet; state dictionaries of any format load into it.

    Attributes:
        codes, scale_codes: uint8, packed.
        superscales: in their dtype.
        minimum: float32 [1].
        header: int32 [7]: the format (dtype as its place in DTYPES), rows and columns.
    """

    PARTS = ("codes", "scale_codes", "superscales", "minimum", "header")
    codes: nn.Parameter
    scale_codes: nn.Parameter
    superscales: nn.Parameter
    minimum: nn.Parameter
    header: nn.Parameter

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__()
        self._reserved = torch.Size((0, 0))  # of a matrix on the meta device
        for name in self.PARTS:
            self._set(name, torch.empty(0, dtype=torch.uint8, device=device))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is stored."""
        return self.codes.numel() == 0

    @property
    def format(self) -> Format:
        """The format of what is stored."""
        bits, scale_bits, dtype, block, superblock = self.header[:5].tolist()
        kinds: list[Superscale] = ["bf16", "fp16", "fp32"]
        return Format(bits, scale_bits, kinds[dtype], block, superblock)

    def store(self, matrix: Quantised) -> None:
        """Pack a quantised matrix in the place of what is stored."""
        form, weights = matrix.format, matrix.shape.numel()
        blocks = len(matrix.codes)
        self._set("codes", pack(matrix.codes.flatten()[:weights], form.bits))
        self._set("scale_codes", pack(matrix.scale_codes.flatten()[:blocks], form.scale_bits))
        self._set("superscales", matrix.superscales.flatten())
        self._set("minimum", matrix.minimum)
        head = (form.bits, form.scale_bits, list(DTYPES).index(form.superscale))
        head += (form.block, form.superblock, *matrix.shape)
        self._set("header", torch.tensor(head, dtype=torch.int32, device=matrix.codes.device))

    def load_parts(self, parts: Mapping[str, Tensor]) -> None:
        """Put stored parts, by name, in the place of what is stored."""
        for name in parts.keys() & set(self.PARTS):
            self._set(name, parts[name].to(self.codes.device))

    def reserve(self, shape: torch.Size, bits: float) -> None:
        """Take the place of a matrix on the meta device, at `bits` a weight, for plans."""
        size = ceil(shape.numel() * bits / 8)
        self._set("codes", torch.empty(size, dtype=torch.uint8, device="meta"))
        self._reserved = shape

    def weight(self) -> Tensor:
        """Return the stored matrix, float32 [rows, columns]."""
        if self.codes.is_meta:
            return torch.empty(self._reserved, device="meta")
        form, shape = self.format, torch.Size(self.header[5:].tolist())
        blocks = ceil(shape.numel() / form.block)
        codes = unpack(self.codes, form.bits, shape.numel())
        scale_codes = unpack(self.scale_codes, form.scale_bits, blocks)
        return Quantised(
            _fill(codes, form.block).long(), _fill(scale_codes, form.superblock),
            self.superscales[:, None], self.minimum, form, shape,
        ).weight()  # fmt: skip

    def count_bytes(self) -> int:
        """Count the bytes of all parts."""
        return sum(p.numel() * p.element_size() for p in self.parameters())

    def _set(self, name: str, values: Tensor) -> None:
        setattr(self, name, nn.Parameter(values.contiguous(), requires_grad=False))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: object
    ) -> None:  # type: ignore[override]
        for name in self.PARTS:
            saved = state_dict.get(prefix + name)
            if saved is not None:
                self._set(name, torch.empty_like(saved, device=self.codes.device))
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[arg-type]
