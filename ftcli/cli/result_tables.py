"""The tables at the end of a run, or of a job with stages: scores before and after, cost, folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ftcli.core import errors


def show_result(result: dict[str, Any]) -> int:
    """Print scores, cost and folder of a run; returns the exit status of the process.

    Args:
        result: content of result.json; empty on machines other than the first of a run.
    """
    from ftcli.core.console import console

    out = console()
    if not result:
        return errors.OK
    finished = result["status"] == "finished"
    if os.environ.get("RANK", "0") != "0":
        return errors.OK if finished else errors.INTERRUPTED
    if finished:
        out.print(_build_score_table(result))
    if "ended_early" in result:
        out.print(f"ended early: {result['ended_early']}")
    out.print(_describe_cost(result))
    where = Path(result["run"])
    if not finished:
        out.print(f"{result['status']}; saved. Go on with: ftcli resume {where}")
        return errors.INTERRUPTED
    out.print(f"report  {where / 'report.md'}\ntalk    ftcli chat {where}")
    return errors.OK


def _build_score_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("score", "before", "after", box=None, pad_edge=False)
    before, after = result["metrics_before"], result["metrics"]
    for name, value in after.items():
        first = f"{before[name]:.4g}" if name in before else "–"
        table.add_row(name.removeprefix("eval."), first, f"{value:.4g}")
    return table


def _describe_cost(result: dict[str, Any]) -> str:
    parts = [f"{result['step']:,} steps", f"{result['tokens']:,} tokens"]
    if result.get("tok_s"):
        parts.append(f"{result['seconds']:,.0f} s of training at {result['tok_s']:,.0f} tokens/s")
    parts.append(f"peak memory {result['peak_memory_gb']:.2f} GB")
    trained, total = result["trainable_parameters"], result["total_parameters"]
    parts.append(f"{trained:,} of {total:,} parameters trained")
    return ", ".join(parts)


def show_stages(result: dict[str, Any]) -> int:
    """Print the scores of each stage before and after; returns the exit status of the process."""
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
    """Return a table with a row per stage and score: before, after, and the cost of the stage."""
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
