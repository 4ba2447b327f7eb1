"""Measurements of the lisa recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import json
from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def block_draw_errors(run: Path) -> float:
    """Number of recorded draws that are not `gamma` different blocks, or not at a multiple of `interval`."""
    from ftcli.config import load

    policy = load(run / "config.yaml").config["trainable"]
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    draws = [line for line in map(json.loads, lines) if line["event"] == "active_blocks"]
    if not draws or draws[0]["step"] != 0:
        return float("inf")
    wrong = [
        draw
        for draw in draws
        if len(set(draw["blocks"])) != policy["gamma"] or draw["step"] % policy["interval"]
    ]
    return float(len(wrong))
