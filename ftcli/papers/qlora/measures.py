"""Measurements of the qlora recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from ftcli.core.run import Run

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
    from ftcli.models.decoding import evaluation_mode
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    batch = first_batch(fresh)
    _perturb_parameters(fresh.model)
    before = _gradients(fresh, batch)
    with evaluation_mode(fresh) as model:
        loss_of(fresh, model, batch)
    after = _gradients(fresh, batch)
    return max((a - b).abs().max().item() for a, b in zip(before, after, strict=True))


def _perturb_parameters(model: nn.Module) -> None:
    """Add noise to the trained parameters: at LoRA's initialisation half of the gradients are zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.01 * noise.to(parameter))


def _gradients(run: Run, batch: dict[str, Any]) -> list[Tensor]:
    """Return the adapter's gradients of the mean loss of a batch."""
    from ftcli.reproduce.probe import loss_of

    run.model.train()
    run.model.zero_grad(set_to_none=True)
    loss_of(run, run.model, batch).mean().backward()
    return [p.grad.clone() for p in run.model.parameters() if p.grad is not None]


@measure(exact=True)
def int4_over_fp4(run: Path) -> float:
    """Held-out loss of the untrained base in int4 (absmax of 64) minus that in FP4, nats a token.

    No loader stores int4, so for both formats weights are quantised, dequantised and stored in full precision.
    """
    losses = {kind: _loss(run, kind) for kind in (_int4, _fp4)}
    return losses[_int4] - losses[_fp4]


def _loss(folder: Path, quantise: Callable[[Tensor], Tensor]) -> float:
    """Return the held-out loss of the untrained base with quantised weights of its blocks."""
    from ftcli.evaluation.loss import Loss
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import rebuild_run

    run = rebuild_run(folder, model={"quantization": "none"})
    run.load_model()
    weights: list[Any] = [linear.module.weight for linear in Anatomy(run.model).block_linears]
    for weight in weights:
        weight.data.copy_(quantise(weight.data.float()))
    return Loss()(run)["loss"]


def _int4(weights: Tensor) -> Tensor:
    """Quantise to integers from -7 to 7 and back, with absmax scaling in blocks of 64."""
    blocks = weights.reshape(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12) / LEVELS
    return ((blocks / scales).round().clamp(-LEVELS, LEVELS) * scales).reshape(weights.shape)


def _fp4(weights: Tensor) -> Tensor:
    """Quantise to FP4 and back with bitsandbytes, in blocks of 64."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weights.contiguous(), blocksize=BLOCK, quant_type="fp4")
    return dequantize_4bit(packed, state)


@measure(exact=True)
def nf4_bits(_run: Path) -> float:
    """Bits a weight of a bitsandbytes layer: codes, scales, scales of scales, code tables."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from ftcli.models.bits import measure_bits

    layer = Linear4bit(SIDE, SIDE, bias=False, quant_type="nf4", compress_statistics=True)
    return measure_bits(layer.to(torch.device("cpu")))


@measure(exact=True)
def nf4_code_error(_run: Path) -> float:
    """Largest deviation of the NF4 code from 8 quantiles above 0, 0, and 7 below (QLoRA, arXiv 2305.14314, section 3)."""
    from bitsandbytes.functional import get_4bit_type

    used = get_4bit_type("nf4", device="cpu").sort().values.tolist()
    return max(abs(a - b) for a, b in zip(used, normal_float_code(), strict=True))


def normal_float_code() -> list[float]:
    """Return the NF4 code by its formula, ascending from -1 to 1."""
    above = [NormalDist().inv_cdf(p) for p in _space_probabilities(8)]
    below = [-NormalDist().inv_cdf(p) for p in _space_probabilities(7)]
    code = sorted([*below, 0.0, *above])
    return [value / code[-1] for value in code]


def _space_probabilities(count: int) -> list[float]:
    """Return `count` evenly spaced probabilities from the offset down to one half, without one half."""
    return [OFFSET + (0.5 - OFFSET) * i / count for i in range(count)]


@measure(exact=True)
def nf4_gaussian_error(_run: Path) -> float:
    """Relative Frobenius error of NF4 on N(0, 1) weights in blocks of 64."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    return ((dequantize_4bit(packed, state) - weights).norm() / weights.norm()).item()


@measure(exact=True)
def nf4_roundtrip_error(_run: Path) -> float:
    """Largest |w - dequantise(quantise(w))| of weights that NF4 represents exactly, in blocks of 64."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    code = get_4bit_type("nf4", device="cpu")
    scales = torch.linspace(0.01, 10, 256)
    weights = (code.repeat(256, 4) * scales[:, None]).contiguous()
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    return (dequantize_4bit(packed, state) - weights).abs().max().item()
