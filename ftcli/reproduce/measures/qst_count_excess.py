"""Trainable parameters beyond the formula of a side network beside a Llama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXACT = True


def qst_count_excess(run: Path) -> float:
    """Trainable parameters minus L (d k + k w + 3 w + block) + w + w d + 2 d, for w = d / r.

    The block is a Llama's of width w, with as many heads and heads for keys as the base's, and no bias.
    """
    from ftcli.reproduce.probe import again

    fresh = again(run)
    c: Any = fresh.model_source.hf_config()
    r, k = fresh.config["method"]["reduction"], fresh.config["method"]["rank"]
    d, w, depth = c.hidden_size, c.hidden_size // r, c.num_hidden_layers
    head = (getattr(c, "head_dim", None) or d // c.num_attention_heads) // r
    attention = 2 * w * head * (c.num_attention_heads + c.num_key_value_heads)
    block = attention + 3 * w * (c.intermediate_size // r) + 2 * w
    formula = depth * (d * k + k * w + 3 * w + block) + w + w * d + 2 * d
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return float(result["trainable_parameters"] - formula)
