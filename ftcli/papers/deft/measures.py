"""Measurements of the deft recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure


@measure(exact=True)
def bottleneck_roberta_large(_run: Path) -> float:
    """Trained parameters of a bottleneck adapter of reduction factor 16 behind each of 24 MLPs, no head.

    The formula is 24 (2 * 1024 * 64 + 64 + 1024); the count is that of RoBERTa-large on the meta device.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModel, RobertaConfig

    from ftcli.methods.tuners.bottleneck import BottleneckConfig

    size = RobertaConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    )
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, BottleneckConfig(reduction_factor=16))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
