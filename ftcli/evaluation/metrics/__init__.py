"""Text metrics, one module each, found by name: `metrics: [bleu]` calls `bleu` of `metrics/bleu.py`.

A metric is a function `(predictions, references, rows) -> {name: score}`: N predicted strings, N
lists of acceptable strings, and the N raw rows the prompts came from. Scores are on 0 to 100. What
cannot be computed is left out of the answer; it is never reported as zero.
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
    """Names of all metrics, which are the names of this folder's modules."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UserError: no module has that name; the message names the nearest ones.
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
    """The predictions that have something to be compared with, and that something."""
    pairs = [(p, list(r)) for p, r in zip(predictions, references, strict=True) if r]
    return [p for p, _ in pairs], [r for _, r in pairs]
