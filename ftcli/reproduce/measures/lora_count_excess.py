"""Trainable parameters beyond the formula of LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure


@measure(exact=True)
def lora_count_excess(run: Path) -> float:
    """Trainable parameters minus r * sum(in + out) over the linears of the base's blocks."""
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    r = fresh.config["method"]["r"]
    base: Any = fresh.model_source.build_meta_model()
    weights: list[Any] = [linear.module.weight for linear in Anatomy(base).block_linears]
    formula = sum(r * sum(weight.shape) for weight in weights)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return float(result["trainable_parameters"] - formula)
