"""Scales and shifts of SSF on ViT-B/16, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def ssf_vit_b16(_run: Path) -> float:
    """2 (768 (1 + 12 (1 + 3 + 1 + 1 + 1) + 1) + 12 * 4 * 768): patches, norms, q, k, v, o, MLP."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageClassification as AutoModel
    from transformers import ViTConfig

    from ftcli.papers.ssf.method import SsfConfig

    size = ViTConfig()
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, SsfConfig())
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
