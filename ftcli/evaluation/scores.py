"""Names of metrics whose lower values are better."""

from __future__ import annotations

LOWER_IS_BETTER = {"loss", "perplexity", "slot_error", "slots_missed", "slots_invented"}
#: Figures of a run that are costs.
COSTS = {"seconds", "peak_memory_gb", "trainable_parameters", "adapter_bytes", "bits_per_parameter"}


def less_is_better(metric: str) -> bool:
    """Whether a metric is a loss or a cost, by the last part of its name."""
    return metric.rsplit(".", 1)[-1] in LOWER_IS_BETTER | COSTS
