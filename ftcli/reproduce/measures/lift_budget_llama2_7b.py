"""Entries that LIFT trains of LLaMA-2 7B."""

from __future__ import annotations

from pathlib import Path

EXACT = True
RANK = 128


def lift_budget_llama2_7b(_run: Path) -> float:
    """Sum of min((m + n) * 128, m * n) over the linears of the architecture, on the meta device."""
    from ftcli.models.causal_lm import CausalLM
    from ftcli.papers.lift.trainable import entries

    source = CausalLM("meta-llama/Llama-2-7b-hf", architecture="llama2_7b")
    return float(entries(source.meta(), RANK))
