"""Measurements of the flora recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import nn

STEPS, BATCH, WIDTH, SIDE = 150, 8, 32, 8
RANKS = [4, 4, 2, 2]  # of the shift, and of FLoRA: 4 * 4 * 2 * 2 + 32 * (4 + 4) + 3 * (2 + 2) = 332
RATES = (1e-2, 3e-2)


@measure(exact=True)
def flora_convnext_l(_run: Path) -> float:
    """Per block of C channels 605 + 176 C: channel ranks 16 (1 into a depthwise kernel), kernel ranks 2."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModel, ConvNextConfig

    from ftcli.papers.flora.method import FloraConfig

    size = ConvNextConfig(hidden_sizes=[192, 384, 768, 1536], depths=[3, 3, 27, 3])
    layers = ["dwconv", "pwconv1", "pwconv2"]
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, FloraConfig(r=16, kernel_r=2, target_modules=layers))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))


@measure(exact=True)
def flora_deberta_base(_run: Path) -> float:
    """r = 8 on all linears of 12 layers: 4 (64 + 8 * 1536) + 2 (64 + 8 * 3840) each."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModel, DebertaV2Config

    from ftcli.papers.flora.method import FloraConfig

    size = DebertaV2Config(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    layers = ["query_proj", "key_proj", "value_proj", "dense"]
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, FloraConfig(r=8, target_modules=layers))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))


@measure
def flora_over_flattened(run: Path) -> float:
    """Error of FLoRA over that of LoRA with the run's seed, each at its best rate.

    Two 3x3 convolutions of 32 channels are trained by regression on the outputs of the same network with
    shifted kernels. LoRA of rank 1 has 32 + 32 * 9 = 320 parameters a layer, FLoRA has 332.
    """
    from ftcli.reproduce.probe import seed_of

    seed = seed_of(run)
    return _error("flora", seed) / _error("lora", seed)


def _error(method: str, seed: int) -> float:
    """Return the mean squared error on new inputs over that of the untrained base, at the best rate."""
    import torch
    from peft import LoraConfig, get_peft_model

    from ftcli.papers.flora.method import FloraConfig

    base, target = _pair(seed)
    inputs = torch.randn(64, WIDTH, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        expected, before = target(inputs), (base(inputs) - target(inputs)).square().mean()
    errors = []
    for rate in RATES:
        torch.manual_seed(seed)
        layers = ["0", "2"]
        config: Any = LoraConfig(r=1, lora_alpha=1, target_modules=layers)
        if method == "flora":
            config = FloraConfig(ranks=RANKS, scale=1.0, target_modules=layers)
        model = get_peft_model(copy.deepcopy(base), config)
        _train(model, target, rate)
        with torch.no_grad():
            errors.append(((model(inputs) - expected).square().mean() / before).item())
    return min(errors)


def _pair(seed: int) -> tuple[Any, Any]:
    """Return a small network, and a copy with a random Tucker product added to each kernel."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    base = nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    )
    target = copy.deepcopy(base).requires_grad_(False)
    for layer in (target[0], target[2]):
        weight: Any = layer.weight
        shift = torch.randn(RANKS)
        for size, rank in zip(weight.shape, RANKS, strict=True):
            shift = torch.tensordot(shift, torch.randn(size, rank), dims=([0], [1]))
        weight += 0.5 * shift * (weight.norm() / shift.norm())
    return base, target


def _train(model: nn.Module, target: nn.Module, rate: float) -> None:
    """Train the model by regression on the outputs of the target network."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        inputs = torch.randn(BATCH, WIDTH, SIDE, SIDE, generator=generator)
        with torch.no_grad():
            expected = target(inputs)
        optimizer.zero_grad()
        (model(inputs) - expected).square().mean().backward()
        optimizer.step()
        schedule.step()
