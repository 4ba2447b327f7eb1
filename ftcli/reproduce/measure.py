"""What a claim's `measure` names: a figure of result.json, of the plan, or a measurement of its own.

A measurement is a module of `ftcli.reproduce.measures` with a function of the same name, run folder
-> float. `EXACT = True` in it says that no seed and no rounding moves its value.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ftcli.config.nearest import nearest
from ftcli.core import code
from ftcli.core.atomic import write_json

_FOLDER = Path(__file__).parent / "measures"
#: Figures of result.json -> whether they are counted rather than sampled.
FIGURES = {
    "bits_per_parameter": True, "trainable_parameters": True, "total_parameters": True,
    "adapter_bytes": True, "optimizer_state_bytes": True, "optimizer_state_elements": True,
    "active_parameters": True, "forward_passes": True, "step": True, "tokens": False, "supervised_tokens": False,
    "seconds": False, "tok_s": False, "peak_memory_gb": False,
}  # fmt: skip
#: Scores at the end of training, before its first step, and the first minus the second.
SCORES = ("eval.", "before.eval.", "change.eval.")
PLAN = "plan."


class Absent(Exception):
    """A figure that a run does not have; says which ones it has."""


@cache
def named() -> dict[str, Path]:
    """Measurement -> its file."""
    return {f.stem: f for f in sorted(_FOLDER.glob("*.py")) if f.stem != "__init__"}


def unknown(name: str) -> str | None:
    """What is wrong with a name that no run and no module can answer to; None where it is known."""
    from ftcli.reproduce.planned import FIGURES as PLANNED

    known = [*FIGURES, *named(), *(PLAN + figure for figure in PLANNED)]
    if name in known or name.startswith(SCORES):
        return None
    near = nearest(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{name} is neither a figure nor a measure.{hint}"


def is_exact(name: str) -> bool:
    """Whether chance has no part in the figure, so that it needs no interval."""
    if name in named():
        return bool(getattr(_module(name), "EXACT", False))
    return name.startswith(PLAN) or FIGURES.get(name, False)


def value(name: str, folder: Path) -> float:
    """The figure of a finished run.

    Raises:
        Absent: the run did not measure it.
    """
    if name in named():
        return _measured(name, folder)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    found = figures(result)
    if name not in found:
        raise Absent(f"the runs have no {name}; they have {', '.join(found)}")
    return found[name]


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Every figure of result.json by the name a claim gives it."""
    before, after = result.get("metrics_before") or {}, result.get("metrics") or {}
    found = {key: result[key] for key in FIGURES if key in result} | after
    found |= {f"before.{key}": value for key, value in before.items()}
    found |= {f"change.{key}": after[key] - before[key] for key in after if key in before}
    return {key: float(v) for key, v in found.items() if isinstance(v, (int, float))}


def _module(name: str) -> Any:
    return importlib.import_module(f"ftcli.reproduce.measures.{name}")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress of training while a figure is taken."""
    before = os.environ.get("FTCLI_QUIET")
    os.environ["FTCLI_QUIET"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FTCLI_QUIET"]


def _measured(name: str, folder: Path) -> float:
    """A measurement, kept beside the run while the code, the libraries and the runs beside it stay."""
    state = _state(name, folder)
    kept = folder / "measures" / f"{name}.json"
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before.get("state") == state:
            return float(before["value"])
    from ftcli.models.quantization import quiet_bitsandbytes

    quiet_bitsandbytes()
    with quiet():
        measured = float(getattr(_module(name), name)(folder))
    kept.parent.mkdir(exist_ok=True)
    write_json(kept, {"value": measured, "state": state})
    return measured


def _state(name: str, folder: Path) -> dict[str, Any]:
    """What a measurement of a run rests on."""
    from ftcli.config import load

    configs = [load(path).config for path in sorted(folder.glob("**/config.yaml"))]
    roots = [f"ftcli.reproduce.measures.{name}", *code.roots_of(*configs)]
    index = folder.parent / "runs.json"
    beside = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    return {"code": code.digest(roots), "libraries": code.libraries(), "beside": beside}
