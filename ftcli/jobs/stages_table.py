"""The table at the end of a job with stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.core import errors


def show_stages(result: dict[str, Any]) -> int:
    """Print what each stage scored before and after; returns the exit status of the process."""
    from ftcli.core.console import console

    out, folder = console(), Path(result["run"])
    out.print(build_stage_table(result["stages"]))
    if result["status"] != "finished":
        out.print(f"{result['status']}; saved. Go on with: ftcli resume {folder}")
        return errors.INTERRUPTED
    last = folder / list(result["stages"])[-1]
    out.print(f"report  {last / 'report.md'}\ntalk    ftcli chat {last}")
    return errors.OK


def build_stage_table(stages: dict[str, dict[str, Any]]) -> Any:
    """A row a stage and score: before, after; and what the stage cost."""
    from rich.table import Table

    table = Table("stage", "score", "before", "after", "steps", "seconds", box=None, pad_edge=False)
    for name, result in stages.items():
        cost = [f"{result['step']:,}", f"{result['seconds']:,.0f}"]
        before, after = result["metrics_before"], result["metrics"]
        for score in after or {"": None}:
            row = [
                score.removeprefix("eval."),
                _format_figure(before, score),
                _format_figure(after, score),
            ]
            table.add_row(name, *row, *cost)
            name, cost = "", ["", ""]
    return table


def _format_figure(scores: dict[str, float], name: str) -> str:
    return f"{scores[name]:.4g}" if scores.get(name) is not None else "–"
