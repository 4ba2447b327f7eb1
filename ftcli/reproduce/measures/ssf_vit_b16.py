"""Trained parameters of SSF on ViT-B/16, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def ssf_vit_b16(_run: Path) -> float:
    """Scales, shifts, and a head of 100 classes."""
    import torch
    from peft import get_peft_model
    from transformers import ViTConfig, ViTForImageClassification

    from ftcli.methods.tuners.ssf import SsfConfig

    size: Any = ViTConfig()
    size.num_labels = 100
    with torch.device("meta"):
        base: Any = ViTForImageClassification(size)
        model = get_peft_model(base, SsfConfig(modules_to_save=["classifier"]))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
