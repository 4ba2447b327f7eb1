"""Bytes and bits a stored weight takes under each quantisation, by formula and by measurement.

`ftcli plan` uses the formula before anything is loaded; tests check it by measuring real layers.
QLoRA (arXiv 2305.14314, section 3): 4 + 32/64 = 4.5 bits a parameter for one fp32 scale a block of
64; double quantisation stores the scales in 8 bits, with one fp32 a 256 of them: 4.127 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from torch import Tensor, nn

BLOCK = 64  # weights that share a scale in nf4 and fp4
SCALE_BLOCK = 256  # scales that share a second scale under double quantisation
FOUR_BIT, EIGHT_BIT = ("nf4", "fp4"), ("int8",)
FP32 = 4


@dataclass(frozen=True)
class StoredSize:
    """Bytes of one stored matrix: the codes, their scales, and tables of constant size."""

    codes: int
    scales: int
    tables: int

    @property
    def total(self) -> int:
        """Bytes of codes, scales and tables together."""
        return self.codes + self.scales + self.tables


def compute_bits_per_weight(quantization: str, double_quant: bool = True) -> float:
    """Return the bits per weight of a large matrix, with scales, without constant-size tables.

    int8 adds one fp32 a row, which vanishes in a wide matrix: 8 is returned.

    Raises:
        ValueError: the quantisation is not one of nf4, fp4, int8.
    """
    if quantization in EIGHT_BIT:
        return 8.0
    if quantization not in FOUR_BIT:
        raise ValueError(f"no quantisation called {quantization!r}; there are nf4, fp4, int8")
    if not double_quant:
        return 4 + 8 * FP32 / BLOCK
    return 4 + 8 / BLOCK + 8 * FP32 / (BLOCK * SCALE_BLOCK)


def compute_stored_bytes(
    rows: int, columns: int, quantization: str, double_quant: bool = True
) -> StoredSize:
    """Compute the exact bytes of a `rows` x `columns` weight as bitsandbytes stores it.

    Raises:
        ValueError: the quantisation is not one of nf4, fp4, int8.
    """
    weights = rows * columns
    if quantization in EIGHT_BIT:
        return StoredSize(weights, FP32 * rows, 0)
    if quantization not in FOUR_BIT:
        raise ValueError(f"no quantisation called {quantization!r}; there are nf4, fp4, int8")
    codes, blocks = ceil(weights / 2), ceil(weights / BLOCK)
    code_table = 16 * FP32
    if not double_quant:
        return StoredSize(codes, FP32 * blocks, code_table)
    # one 8-bit number a block, one fp32 a 256 blocks, the mean scale; then the 8-bit code's table
    scales = blocks + FP32 * ceil(blocks / SCALE_BLOCK) + FP32
    return StoredSize(codes, scales, code_table + 256 * FP32)


def measure_bytes(module: nn.Module) -> StoredSize:
    """Measure the bytes that a quantised bitsandbytes layer holds for its weight.

    Raises:
        ValueError: the layer's weight is not quantised (yet).
    """
    weight: Any = module.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        nested = state.state2
        scales = [state.absmax] + ([nested.absmax, state.offset] if nested else [])
        tables = [state.code] + ([nested.code] if nested else [])
        return StoredSize(_bytes(weight), sum(map(_bytes, scales)), sum(map(_bytes, tables)))
    scale = getattr(weight, "SCB", None)
    scale = getattr(getattr(module, "state", None), "SCB", None) if scale is None else scale
    if scale is None:
        raise ValueError(f"{type(module).__name__} holds no quantised weight")
    return StoredSize(_bytes(weight), _bytes(scale), 0)


def measure_bits(module: nn.Module) -> float:
    """Measure the bits per weight of a quantised layer, all of its state counted."""
    true_weights = int(prod((module.in_features, module.out_features)))  # type: ignore[arg-type]
    return 8 * measure_bytes(module).total / true_weights


def measure_model_bits(model: nn.Module) -> float | None:
    """Measure the bits per weight over all quantised layers of a model; None where there is none."""
    stored = weights = 0
    for module in model.modules():
        if "weight" not in module._parameters:
            continue  # an adapter round the layer, which shows the layer's weight as its own
        try:
            stored += measure_bytes(module).total
        except (ValueError, AttributeError):
            continue
        weights += int(prod((module.in_features, module.out_features)))  # type: ignore[arg-type]
    return 8 * stored / weights if weights else None


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
