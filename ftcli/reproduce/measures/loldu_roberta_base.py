"""Trained parameters of LoLDU on RoBERTa-base, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def loldu_roberta_base(_run: Path) -> float:
    """Whole diagonals of the queries and values of 12 layers, without a head."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModel, RobertaConfig

    from ftcli.methods.tuners.loldu import LolduConfig

    with torch.device("meta"):
        base: Any = AutoModel.from_config(RobertaConfig())
        model = get_peft_model(base, LolduConfig(target_modules=["query", "value"], r=768))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
