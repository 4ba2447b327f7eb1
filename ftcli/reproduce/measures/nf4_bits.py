"""Bits a weight of a large matrix in NF4 with double quantisation, everything stored counted."""

from __future__ import annotations

from pathlib import Path

EXACT = True
SIDE = 4096  # a matrix of a 7B Llama; its size is a multiple of the 16384 weights of a scale block


def nf4_bits(_run: Path) -> float:
    """Measured on a real bitsandbytes layer: codes, scales, their scales, code tables."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from ftcli.models.bits import measured_bits

    layer = Linear4bit(SIDE, SIDE, bias=False, quant_type="nf4", compress_statistics=True)
    return measured_bits(layer.to(torch.device("cpu")))
