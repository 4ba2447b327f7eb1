"""What NF4 loses of weights that are its own code values."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def nf4_roundtrip_error(_run: Path) -> float:
    """Largest |w - dequantised(quantised(w))| in blocks of 64 whose absmax is present."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    code = get_4bit_type("nf4", device="cpu")
    scales = torch.linspace(0.01, 10, 256)
    weights = (code.repeat(256, 4) * scales[:, None]).contiguous()
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    return (dequantize_4bit(packed, state) - weights).abs().max().item()
