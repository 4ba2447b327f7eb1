"""What the paper's own adapters take: rank 64 on all linears of LLaMA 7B at 5 %."""

from __future__ import annotations

from pathlib import Path

EXACT = True
ENTRIES, DENSITY = 159_907_840, 0.05


def compeft_qlora_7b_mb(_run: Path) -> float:
    """Megabytes by the Golomb code's formula; 320 MB in bfloat16."""
    from ftcli.deltas.ternary import golomb_rate

    return ENTRIES * golomb_rate(DENSITY) / 8 / 1e6
