"""The table at the end of a run: what it scored before and after, what it cost, where it lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ftcli.core import errors


def show_result(result: dict[str, Any]) -> int:
    """Print the end of a run; returns the exit status of the process."""
    from ftcli.core.console import console

    out = console()
    finished = result["status"] == "finished"
    if os.environ.get("RANK", "0") != "0":
        return errors.OK if finished else errors.INTERRUPTED
    if finished:
        out.print(_build_score_table(result))
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
