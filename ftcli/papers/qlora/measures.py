"""Measurements of the qlora recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any

from ftcli.reproduce.measures import measure

BLOCK, LEVELS = 64, 7
SIDE = 4096  # a matrix of a 7B Llama; its size is a multiple of the 16384 weights of a scale block
OFFSET = ((1 - 1 / 30) + (1 - 1 / 32)) / 2
SIZE = 1 << 20


@measure(exact=True)
def evaluation_gradient_change(run: Path) -> float:
    """Largest difference of an adapter's gradients before and after an evaluation pass.

    bitsandbytes 0.50 on CPUs with AVX512-BF16 repacks weights in the first such pass, after which
    the path through the base gave no gradient; `ftcli.models.quantization` turns that off.
    """
    from ftcli.models.decoding import judging
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    batch = first_batch(fresh)
    _perturb_parameters(fresh.model)
    before = _gradients(fresh, batch)
    with judging(fresh) as model:
        loss_of(fresh, model, batch)
    after = _gradients(fresh, batch)
    return max((a - b).abs().max().item() for a, b in zip(before, after, strict=True))


def _perturb_parameters(model: Any) -> None:
    """Move what is trained off its zeros, where half of LoRA's gradients are zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.01 * noise.to(parameter))


def _gradients(run: Any, batch: dict[str, Any]) -> list[Any]:
    from ftcli.reproduce.probe import loss_of

    run.model.train()
    run.model.zero_grad(set_to_none=True)
    loss_of(run, run.model, batch).mean().backward()
    return [p.grad.clone() for p in run.model.parameters() if p.grad is not None]


@measure(exact=True)
def int4_over_fp4(run: Path) -> float:
    """Held-out loss of the untrained base in int4 (absmax of 64) minus that in FP4, nats a token.

    No loader stores int4, so both are done alike: weights are rounded and stored unrounded again.
    """
    losses = {kind: _loss(run, kind) for kind in (_int4, _fp4)}
    return losses[_int4] - losses[_fp4]


def _loss(folder: Path, rounded: Any) -> float:
    from ftcli.evaluation.loss import Loss
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import rebuild_run

    run = rebuild_run(folder, model={"quantization": "none"})
    run.load_model()
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


@measure(exact=True)
def nf4_bits(_run: Path) -> float:
    """Measured on a real bitsandbytes layer: codes, scales, their scales, code tables."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from ftcli.models.bits import measured_bits

    layer = Linear4bit(SIDE, SIDE, bias=False, quant_type="nf4", compress_statistics=True)
    return measured_bits(layer.to(torch.device("cpu")))


@measure(exact=True)
def nf4_code_error(_run: Path) -> float:
    """16 normal quantiles: 8 above zero, zero, 7 below it (QLoRA, arXiv 2305.14314, section 3)."""
    from bitsandbytes.functional import get_4bit_type

    used = get_4bit_type("nf4", device="cpu").sort().values.tolist()
    return max(abs(a - b) for a, b in zip(used, normal_float_code(), strict=True))


def normal_float_code() -> list[float]:
    """The code by its formula, ascending from -1 to 1."""
    above = [NormalDist().inv_cdf(p) for p in _between(8)]
    below = [-NormalDist().inv_cdf(p) for p in _between(7)]
    code = sorted([*below, 0.0, *above])
    return [value / code[-1] for value in code]


def _between(count: int) -> list[float]:
    """`count` probabilities from the offset down towards one half, which is left out."""
    return [OFFSET + (0.5 - OFFSET) * i / count for i in range(count)]


@measure(exact=True)
def nf4_gaussian_error(_run: Path) -> float:
    """Relative Frobenius error on N(0, 1) in blocks of 64."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    return ((dequantize_4bit(packed, state) - weights).norm() / weights.norm()).item()


@measure(exact=True)
def nf4_roundtrip_error(_run: Path) -> float:
    """Largest |w - dequantised(quantised(w))| in blocks of 64 whose absmax is present."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    code = get_4bit_type("nf4", device="cpu")
    scales = torch.linspace(0.01, 10, 256)
    weights = (code.repeat(256, 4) * scales[:, None]).contiguous()
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    return (dequantize_4bit(packed, state) - weights).abs().max().item()
