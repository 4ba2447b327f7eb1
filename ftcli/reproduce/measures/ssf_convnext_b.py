"""Scales and shifts of SSF on ConvNeXt-B, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def ssf_convnext_b(_run: Path) -> float:
    """Per block of C channels 14 C; stem 4 C; down-sampling to 2 C 6 C; final norm 2 C."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageClassification as AutoModel
    from transformers import ConvNextConfig

    from ftcli.papers.ssf.method import SsfConfig

    size = ConvNextConfig(hidden_sizes=[128, 256, 512, 1024], depths=[3, 3, 27, 3])
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, SsfConfig())
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
