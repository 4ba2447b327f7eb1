"""What NF4 loses of normal weights."""

from __future__ import annotations

from pathlib import Path

EXACT = True  # a million draws from a fixed seed
SIZE = 1 << 20


def nf4_gaussian_error(_run: Path) -> float:
    """Relative Frobenius error on N(0, 1) in blocks of 64."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    return ((dequantize_4bit(packed, state) - weights).norm() / weights.norm()).item()
