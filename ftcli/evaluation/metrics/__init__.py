"""Text metrics, one module each, found by name: `metrics: [bleu]` calls `bleu` of `metrics/bleu.py`.

A metric is a function `(predictions, references, rows) -> {name: score}`: N predicted strings, N
lists of acceptable strings, and the N raw rows of the prompts. Scores are from 0 to 100. A score that
cannot be computed is absent from the result, never zero.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftcli.core.errors import UserError

Rows = Sequence[Mapping[str, Any]]
References = Sequence[Sequence[str]]
Metric = Callable[[Sequence[str], References, Rows], dict[str, float]]


def list_metrics() -> list[str]:
    """Return the names of all metrics, which are the names of this folder's modules."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        UserError: there is no such metric; the message suggests similar names.
    """
    names = list_metrics()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=2)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"{name}: no such metric. {hint}Available: {', '.join(names)}", where="eval metrics"
        )
    return getattr(importlib.import_module(f"{__name__}.{name}"), name)


def select_with_references(
    predictions: Sequence[str], references: References
) -> tuple[list[str], list[list[str]]]:
    """Return the predictions that have references, and their references."""
    pairs = [(p, list(r)) for p, r in zip(predictions, references, strict=True) if r]
    return [p for p, _ in pairs], [r for _, r in pairs]
