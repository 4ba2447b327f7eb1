"""Entries that LIFT trains of LLaMA-3 8B."""

from __future__ import annotations

from pathlib import Path

EXACT = True
RANK = 128


def lift_budget_llama3_8b(_run: Path) -> float:
    """Sum of min((m + n) * 128, m * n) over the linears of the architecture, on the meta device."""
    from ftcli.models.causal_lm import CausalLM
    from ftcli.papers.lift.trainable import entries

    source = CausalLM("meta-llama/Meta-Llama-3-8B", architecture="llama3_8b")
    return float(entries(source.meta(), RANK))
