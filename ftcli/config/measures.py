"""The figures that a claim's `measure` may name, read from source: nothing is imported or measured.

A figure stands in result.json, in a plan, or is a measurement of its own: a function marked by
`ftcli.reproduce.measures.measure`, in a module beside that mark or in a paper's `measures.py`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ftcli.config.nearest import nearest

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
#: Figures of a plan, under `plan.<name>`.
PLANNED = (
    "parameters", "trainable_parameters", "quantised_parameters", "bits_per_parameter",
    "quantised_gb", "weights_gb", "memory_gb", "least_memory_gb",
)  # fmt: skip
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measure:
    """A measurement: the module it stands in, and whether no seed or rounding moves its value."""

    module: str
    exact: bool


@cache
def named() -> dict[str, Measure]:
    """Name of each measurement -> where it stands."""
    files = [*(_PACKAGE / "reproduce" / "measures").glob("[!_]*.py")]
    files += (_PACKAGE / "papers").glob("*/measures.py")
    return {name: found for file in sorted(files) for name, found in _marked(file)}


def _marked(file: Path) -> list[tuple[str, Measure]]:
    module = ".".join(["ftcli", *file.relative_to(_PACKAGE).with_suffix("").parts])
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    marks = [(node.name, ast.unparse(mark)) for node in functions for mark in node.decorator_list]
    return [
        (name, Measure(module, "exact=True" in mark))
        for name, mark in marks
        if mark.partition("(")[0] == "measure"
    ]


def unknown(name: str) -> str | None:
    """What is wrong with a name that no run and no module can answer to; None where it is known."""
    known = [*FIGURES, *named(), *(PLAN + figure for figure in PLANNED)]
    if name in known or name.startswith(SCORES):
        return None
    near = nearest(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{name} is neither a figure nor a measure.{hint}"


def is_exact(name: str) -> bool:
    """Whether chance has no part in the figure, so that it needs no interval."""
    if name in named():
        return named()[name].exact
    return name.startswith(PLAN) or FIGURES.get(name, False)
