"""Values of the measures that claims name, for a finished run; see `ftcli.config.recipe`."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftcli.config.recipe import FIGURES, list_measures
from ftcli.core import code
from ftcli.core.atomic import write_json


class MetricUnavailable(Exception):
    """A run has no figure of this name; the message lists those that it has."""


def read_metric(name: str, folder: Path) -> float:
    """Return a figure of a finished run.

    Raises:
        MetricUnavailable: the run did not measure it.
    """
    if name in list_measures():
        return _take_measurement(name, folder)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    metrics = figures(result)
    if name not in metrics:
        raise MetricUnavailable(f"the runs have no {name}; they have {', '.join(metrics)}")
    return metrics[name]


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Return the figures of result.json by the names that claims use."""
    before, after = result.get("metrics_before") or {}, result.get("metrics") or {}
    values = {key: result[key] for key in FIGURES if key in result} | after
    values |= {f"before.{key}": value for key, value in before.items()}
    values |= {f"change.{key}": after[key] - before[key] for key in after if key in before}
    return {key: float(v) for key, v in values.items() if isinstance(v, (int, float))}


@contextmanager
def suppress_progress() -> Iterator[None]:
    """Hide the progress display of training in the block."""
    before = os.environ.get("FTCLI_QUIET")
    os.environ["FTCLI_QUIET"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FTCLI_QUIET"]


def _take_measurement(name: str, folder: Path) -> float:
    """Return a measurement, from the cache in the run folder unless code, libraries or sibling runs changed."""
    state = _cache_state(name, folder)
    kept = folder / "measures" / f"{name}.json"
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before.get("state") == state:
            return float(before["value"])
    from ftcli.models.quantization import quiet_bitsandbytes

    quiet_bitsandbytes()
    with suppress_progress():
        measured = float(
            getattr(importlib.import_module(list_measures()[name].module), name)(folder)
        )
    kept.parent.mkdir(exist_ok=True)
    write_json(kept, {"value": measured, "state": state})
    return measured


def _cache_state(name: str, folder: Path) -> dict[str, Any]:
    """Return the cache key of a measurement: hash of the code, library versions, index of sibling runs."""
    from ftcli.config import load

    configs = [load(path).config for path in sorted(folder.glob("**/config.yaml"))]
    roots = [list_measures()[name].module, *code.roots_of(*configs)]
    index = folder.parent / "runs.json"
    beside = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    return {"code": code.digest(roots), "libraries": code.libraries(), "beside": beside}
