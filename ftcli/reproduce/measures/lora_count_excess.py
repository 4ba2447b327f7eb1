"""Trainable parameters beyond the formula of LoRA."""

from __future__ import annotations

import json
from pathlib import Path

EXACT = True


def lora_count_excess(run: Path) -> float:
    """Trainable parameters minus r * sum(in + out) over the linears of the base's blocks."""
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import again

    fresh = again(run)
    r = fresh.config["method"]["r"]
    linears = Anatomy(fresh.model_source.meta()).block_linears
    formula = sum(r * sum(linear.module.weight.shape) for linear in linears)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return float(result["trainable_parameters"] - formula)
