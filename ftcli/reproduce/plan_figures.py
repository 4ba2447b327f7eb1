"""Figures of a job that need no run, counted on the meta device without weights or network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftcli.planning.plan import Plan

GB = 1e9
#: Figure -> function that reads it from a plan.
FIGURES: dict[str, Callable[[Plan], float]] = {
    "parameters": lambda plan: _weights(plan).parameters,
    "trainable_parameters": lambda plan: _weights(plan).trainable,
    "quantised_parameters": lambda plan: _weights(plan).quantised_parameters,
    "bits_per_parameter": lambda plan: _weights(plan).bits or 0.0,
    "quantised_gb": lambda plan: _weights(plan).quantised / GB,
    "weights_gb": lambda plan: _weights(plan).base / GB,
    "memory_gb": lambda plan: plan.memory.total / GB,
    "least_memory_gb": lambda plan: plan.memory.required / GB,
}


def _weights(plan: Any) -> Any:
    """Return the counted weights of a plan; this skips the trace of a step, which only memory needs."""
    from ftcli.planning.weights import count_weights

    if not hasattr(plan, "counted"):
        meta_run = plan.meta_run
        double = getattr(meta_run.source, "double_quant", True)
        plan.counted = count_weights(meta_run.model, meta_run.quantization, double)
    return plan.counted
