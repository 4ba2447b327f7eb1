"""Vectors of -1, 0 and 1 with one scale, and their bytes: Golomb-coded gaps, or two bit masks.

ComPEFT (arXiv 2311.13171, section 2 and appendix): gaps between non-zeros are geometric, for which
Golomb's code with a power of two is optimal among prefix codes; signs take one bit each.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ftcli.core.errors import UserError

Codec = Literal["golomb", "masks"]
MAGIC = b"FT3\x01"
PHI = (1 + math.sqrt(5)) / 2


@dataclass(frozen=True, eq=False)
class Ternary:
    """Signs of some entries of concatenated named tensors, times one scale.

    Attributes:
        shapes: name -> shape, in the order of the vector.
        positions: positions of the non-zeros, ascending int64 [n].
        negative: whether each of them is -1, bool [n].
        scale: their common magnitude, stored in 32 bits.
    """

    shapes: Mapping[str, tuple[int, ...]]
    positions: np.ndarray
    negative: np.ndarray
    scale: float

    @cached_property
    def starts(self) -> dict[str, int]:
        """Start of each tensor in the vector."""
        starts, end = {}, 0
        for name, shape in self.shapes.items():
            starts[name] = end
            end += math.prod(shape)
        return starts

    @property
    def entries(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, float64."""
        begin, size = self.starts[name], math.prod(self.shapes[name])
        first, last = np.searchsorted(self.positions, [begin, begin + size])
        flat = torch.zeros(size, dtype=torch.float64)
        signs = torch.from_numpy(np.where(self.negative[first:last], -1.0, 1.0))
        flat[torch.from_numpy(self.positions[first:last] - begin)] = signs * self.scale
        return flat.view(self.shapes[name])

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return bits of the positive and of the negative entries, packed uint8 [ceil(d / 8)] each."""
        pair = []
        for chosen in (~self.negative, self.negative):
            bits = np.zeros(self.entries, dtype=np.uint8)
            bits[self.positions[chosen]] = 1
            pair.append(np.packbits(bits))
        return pair[0], pair[1]


def inner_product(first: Ternary, second: Ternary) -> float:
    """Return the inner product by counting bits: (P1 P2 + N1 N2 - P1 N2 - N1 P2) times both scales."""
    (p1, n1), (p2, n2) = first.masks(), second.masks()
    same = _count_ones(p1 & p2) + _count_ones(n1 & n2)
    return float((same - _count_ones(p1 & n2) - _count_ones(n1 & p2)) * first.scale * second.scale)


def golomb_bits(density: float) -> int:
    """Return the bits of a gap's remainder: 1 + floor(log2(log(phi - 1) / log(1 - k)))."""
    if density >= 1:
        return 0
    return max(0, 1 + math.floor(math.log2(math.log(PHI - 1) / math.log(1 - density))))


def golomb_rate(density: float) -> float:
    """Return the expected bits per entry: k times (gap + sign)."""
    bits = golomb_bits(density)
    return density * (bits + 1 / (1 - (1 - density) ** (2**bits)) + 1)


def entropy(density: float) -> float:
    """Return the entropy of independent entries, in bits per entry."""
    k = density
    empty = (1 - k) * math.log2(1 - k) if k < 1 else 0.0
    return -(empty + k * math.log2(k / 2))


def encode(vector: Ternary, codec: Codec = "golomb") -> bytes:
    """Return the bytes of a file: deflated header, then the code.

    Golomb: quotients in unary, remainders, signs, each as one bit plane, so that decoding needs no
    loop. Masks: positive, then negative.
    """
    n, density = len(vector.positions), len(vector.positions) / max(vector.entries, 1)
    bits = golomb_bits(density) if n else 0
    header = {
        "codec": codec, "scale": struct.pack("<f", vector.scale).hex(), "n": n, "bits": bits,
        "shapes": {name: list(shape) for name, shape in vector.shapes.items()},
    }  # fmt: skip
    body = b"".join(_encode_golomb(vector, bits) if codec == "golomb" else _encode_masks(vector))
    text = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    return MAGIC + struct.pack("<I", len(text)) + text + body


def decode(data: bytes) -> Ternary:
    """Decode the bytes of `encode`.

    Raises:
        UserError: the bytes have another format or are truncated.
    """
    try:
        if data[:4] != MAGIC:
            raise ValueError("the first four bytes are not those of a ternary delta")
        size = struct.unpack("<I", data[4:8])[0]
        header = json.loads(zlib.decompress(data[8 : 8 + size]))
        body = np.frombuffer(data, dtype=np.uint8, offset=8 + size)
        take = _decode_golomb if header["codec"] == "golomb" else _decode_masks
        shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
        scale = struct.unpack("<f", bytes.fromhex(header["scale"]))[0]
        positions, negative = take(body, header, sum(math.prod(s) for s in shapes.values()))
    except (ValueError, KeyError, IndexError, struct.error, zlib.error) as error:
        raise UserError(f"this is not a complete ternary delta: {error}") from error
    return Ternary(shapes, positions, negative, scale)


def _encode_golomb(vector: Ternary, bits: int) -> list[bytes]:
    gaps = np.diff(vector.positions, prepend=-1) - 1
    quotients, rests = gaps >> bits, gaps & ((1 << bits) - 1)
    unary = np.ones(int(quotients.sum()) + len(gaps), dtype=np.uint8)
    unary[np.cumsum(quotients + 1) - 1] = 0
    places = np.arange(bits - 1, -1, -1)
    remainders = ((rests[:, None] >> places) & 1).astype(np.uint8).reshape(-1)
    return [np.packbits(plane).tobytes() for plane in (unary, remainders, vector.negative)]


def _decode_golomb(body: np.ndarray, header: dict[str, Any], _: int) -> tuple[Any, Any]:
    n, bits = header["n"], header["bits"]
    tail = (n * bits + 7) // 8 + (n + 7) // 8
    unary = np.unpackbits(body[: len(body) - tail])
    ends = np.flatnonzero(unary == 0)[:n]
    if len(ends) < n:
        raise ValueError("the data end early")
    quotients = np.diff(ends, prepend=-1) - 1
    rest = body[len(body) - tail :]
    plane = np.unpackbits(rest[: (n * bits + 7) // 8], count=n * bits).reshape(n, bits)
    rests = plane.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
    negative = np.unpackbits(rest[(n * bits + 7) // 8 :], count=n).astype(bool)
    return np.cumsum((quotients << bits) + rests + 1) - 1, negative


def _encode_masks(vector: Ternary) -> list[bytes]:
    return [mask.tobytes() for mask in vector.masks()]


def _decode_masks(body: np.ndarray, _: dict[str, Any], entries: int) -> tuple[Any, Any]:
    half = (entries + 7) // 8
    if len(body) < 2 * half:
        raise ValueError("the data end early")
    positive, negative = (
        np.flatnonzero(np.unpackbits(plane, count=entries)) for plane in (body[:half], body[half:])
    )
    positions = np.concatenate([positive, negative])
    order = np.argsort(positions, kind="stable")
    return positions[order], (np.arange(len(positions)) >= len(positive))[order]


def _count_ones(bits: np.ndarray) -> int:
    return int(np.unpackbits(bits).sum())
