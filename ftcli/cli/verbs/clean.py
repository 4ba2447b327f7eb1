"""`ftcli clean`: free the disk of checkpoints that nobody needs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

GROUP = "After training"


def clean(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs, sweeps, or folders of them; runs/ if absent.")
    ] = None,
    keep_last: Annotated[int, typer.Option(help="How many of the newest stay.", min=1)] = 1,
    keep_best: Annotated[bool, typer.Option(help="Whether the best stays.")] = True,
    keep_every: Annotated[
        int | None, typer.Option(help="Multiples of this step stay too.", min=1)
    ] = None,
    sweep_best: Annotated[
        bool, typer.Option("--sweep-best", help="Of an ended sweep, only its best trial keeps any.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; else only say what would go.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove checkpoints by a rule; only shows what would go without --yes.

    Everything else in a run stays. An unfinished run keeps what resume needs, and a run at work is
    left alone.
    """
    from ftcli.core.console import emit
    from ftcli.jobs.clean import Rule, clean_run, find_runs

    rule = Rule(keep_last, keep_best, keep_every)
    found = find_runs(runs or ["runs"])
    lost = _find_losers(found) if sweep_best else set()
    done = [clean_run(run, rule, run in lost, delete=yes) for run in found]
    emit([cleaning.as_dict() for cleaning in done], as_json, lambda: _show(done, yes))


def _find_losers(runs: list[Any]) -> set[Any]:
    """The trials of ended sweeps that are not the best."""
    from ftcli.sweeps.ended import find_best_trial

    lost = set()
    for folder in {
        place for run in runs for place in list(run.parents)[:2]
    }:  # a trial may have stages
        best = find_best_trial(folder)
        if best is not None:
            lost |= {r for r in runs if r.is_relative_to(folder) and not r.is_relative_to(best)}
    return lost


def _show(done: list[Any], yes: bool) -> None:
    from pathlib import Path

    from rich.table import Table

    from ftcli.config.paths import format_path
    from ftcli.core.console import console
    from ftcli.core.disk import format_bytes

    going = "removed" if yes else "would go"
    table = Table("run", going, "size", "stay", "", box=None, pad_edge=False)
    for cleaning in done:
        if cleaning.removed or cleaning.notes:
            size = format_bytes(cleaning.bytes) if cleaning.removed else ""
            names = [", ".join(part) or "–" for part in (cleaning.removed, cleaning.kept)]
            table.add_row(
                format_path(Path(cleaning.run)), names[0], size, names[1], "; ".join(cleaning.notes)
            )
    if table.row_count:
        console().print(table, markup=False)
    count, runs = sum(len(cleaning.removed) for cleaning in done), len(done)
    total = format_bytes(sum(cleaning.bytes for cleaning in done))
    then = "" if yes or not count else "; the same command with --yes removes them"
    what = f"{count} checkpoint{'s' * (count != 1)} of {runs} run{'s' * (runs != 1)}"
    console().print(f"{what}, {total}, {going}{then}")
