"""Trained parameters of FLoRA on ConvNeXt-L, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


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
