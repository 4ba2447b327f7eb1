"""Trained diagonals of LoLDU on RoBERTa-base, counted without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def loldu_roberta_base(_run: Path) -> float:
    """768 entries each of the query and the value of 12 layers."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModel, RobertaConfig

    from ftcli.papers.loldu.method import LolduConfig

    size = RobertaConfig()
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, LolduConfig(r=768, target_modules=["query", "value"]))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
