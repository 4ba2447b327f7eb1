"""How much worse evenly spaced 4-bit integers keep a model than 4-bit floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True
BLOCK, LEVELS = 64, 7


def int4_over_fp4(run: Path) -> float:
    """Held-out loss of the untrained base in int4 (absmax of 64) minus that in FP4, nats a token.

    No loader stores int4, so both are done alike: weights are rounded and stored unrounded again.
    """
    losses = {kind: _loss(run, kind) for kind in (_int4, _fp4)}
    return losses[_int4] - losses[_fp4]


def _loss(folder: Path, rounded: Any) -> float:
    from ftcli.evaluation.loss import Loss
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import again

    run = again(folder, model={"quantization": "none"})
    weights: list[Any] = [linear.module.weight for linear in Anatomy(run.model).block_linears]
    for weight in weights:
        weight.data.copy_(rounded(weight.data.float()))
    return Loss()(run)["loss"]


def _int4(weights: Any) -> Any:
    """Absmax scaling to whole numbers from -7 to 7 in blocks of 64."""
    blocks = weights.reshape(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12) / LEVELS
    return ((blocks / scales).round().clamp(-LEVELS, LEVELS) * scales).reshape(weights.shape)


def _fp4(weights: Any) -> Any:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weights.contiguous(), blocksize=BLOCK, quant_type="fp4")
    return dequantize_4bit(packed, state)
