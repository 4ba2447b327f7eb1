"""Largest difference between the NF4 code in use and its definition."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

EXACT = True
OFFSET = ((1 - 1 / 30) + (1 - 1 / 32)) / 2


def nf4_code_error(_run: Path) -> float:
    """16 normal quantiles: 8 above zero, zero, 7 below it (QLoRA, arXiv 2305.14314, section 3)."""
    from bitsandbytes.functional import get_4bit_type

    used = get_4bit_type("nf4", device="cpu").sort().values.tolist()
    return max(abs(a - b) for a, b in zip(used, defined(), strict=True))


def defined() -> list[float]:
    """The code by its formula, ascending from -1 to 1."""
    above = [NormalDist().inv_cdf(p) for p in _between(8)]
    below = [-NormalDist().inv_cdf(p) for p in _between(7)]
    code = sorted([*below, 0.0, *above])
    return [value / code[-1] for value in code]


def _between(count: int) -> list[float]:
    """`count` probabilities from the offset down towards one half, which is left out."""
    return [OFFSET + (0.5 - OFFSET) * i / count for i in range(count)]
