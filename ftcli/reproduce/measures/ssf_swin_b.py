"""Scales and shifts of SSF on Swin-B, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def ssf_swin_b(_run: Path) -> float:
    """Per block of C channels 22 C, down-sampling 12 C, patches 4 C, final norm 2 C."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageClassification as AutoModel
    from transformers import SwinConfig

    from ftcli.papers.ssf.method import SsfConfig

    size = SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32])
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, SsfConfig())
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
