"""Trained parameters of FLoRA on DeBERTaV3-base, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


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
