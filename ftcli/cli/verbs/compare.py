"""`ftcli compare`: runs side by side."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

GROUP = "After training"


def compare(
    runs: Annotated[list[str], typer.Argument(help="Run directories.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Scores, speed, memory and size of runs, and the config keys in which they differ."""
    from ftcli.core.console import console, emit
    from ftcli.evaluation.compare import compare as compare_runs

    result = compare_runs(runs)

    def render() -> None:
        from rich.table import Table

        table = Table("", *_short(result.runs), box=None, pad_edge=False)
        for part in (result.scores, result.costs, result.config):
            for name, values in part.items():
                table.add_row(name, *map(_cell, values))
            table.add_section()
        console().print(table)

    emit(result.as_dict(), as_json, render)


def _short(runs: list[str]) -> list[str]:
    """The paths without the folders that all of them share."""
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(run)) for run in runs])
    return [os.path.relpath(run, shared) for run in runs]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
