"""`ftcli sweep`: many runs of one job, a grid or a search."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ftcli.sweeps.sweep import MakeView

GROUP = "Train"


def sweep(
    job: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a packaged job.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=a,b,c  key=range(1,5)  key=interval(1e-4,1e-2)  group=glob(*) ..."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Trials at a time.", min=1)
    ] = None,
    optuna: Annotated[bool, typer.Option("--optuna", help="Search with Optuna (TPE).")] = False,
    trials: Annotated[
        int | None, typer.Option(help="How many trials the search makes (20).", min=1)
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Stop hopeless trials early.")] = False,
    pruner: Annotated[
        Literal["median", "hyperband"], typer.Option(help="How --prune tells them.")
    ] = "median",
    metric: Annotated[str, typer.Option(help="A score or cost of result.json.")] = "eval.loss",
    maximize: Annotated[
        bool | None,
        typer.Option("--maximize/--minimize", help="Where the metric's name does not tell."),
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(help="local, submitit (Slurm), ray; launcher.KEY=... sets it up.")
    ] = None,
    dir: Annotated[Path, typer.Option(help="Where sweeps are kept.")] = Path("sweeps"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the sweep in this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Try values of keys: every combination, or a search; one folder a trial, one table."""
    from ftcli.core.errors import UserError
    from ftcli.evaluation.scores import less_is_better
    from ftcli.sweeps import sweep as sweeps
    from ftcli.sweeps.plan import Plan

    view = _view(as_json)
    if resume is not None:
        if job or overrides or optuna or prune:
            raise UserError(
                "a sweep goes on as it was started.",
                fix=f"ftcli sweep --resume {resume} (only --jobs, --trials, --launcher may change)",
            )
        return _show(sweeps.resume_sweep(resume, view, jobs, trials, launcher), as_json)
    if job is None:
        raise UserError("no job is given.", fix="ftcli sweep JOB key=a,b, or --resume FOLDER")
    if (trials or prune) and not optuna:
        raise UserError("--trials and --prune belong to a search.", fix="add --optuna")
    lower = less_is_better(metric) if maximize is None else not maximize
    plan = Plan(
        job, list(overrides or []), metric, lower, optuna, (trials or 20) if optuna else None,
        pruner if prune else "none", launcher=launcher, jobs=jobs,
    )  # fmt: skip
    return _show(sweeps.start_sweep(plan, dir, view), as_json)


def _view(as_json: bool) -> MakeView:
    from ftcli.core.console import console
    from ftcli.sweeps.table import LineView, LiveView, SilentView

    if as_json or os.environ.get("FTCLI_QUIET"):
        return SilentView
    return LiveView if console().is_terminal else LineView


def _show(outcome: object, as_json: bool) -> int:
    from ftcli.core.console import console, emit
    from ftcli.sweeps.outcome import Outcome
    from ftcli.sweeps.table import build_table
    from ftcli.sweeps.trial import describe_point

    assert isinstance(outcome, Outcome)

    def render() -> None:
        out = console()
        if not out.is_terminal:  # a terminal has the live table on it
            out.print(build_table(outcome.trials, outcome.metric))
        if outcome.best is not None:
            score = outcome.best.score(outcome.metric)
            out.print(
                f"best    {describe_point(outcome.best.point)}: {outcome.metric} {score:.6g}\n"
                f"run     {outcome.best.folder}\n"
                f"again   ftcli train {outcome.folder / 'best.yaml'}\n"
                f"table   {outcome.folder / 'sweep.csv'}, plots {outcome.folder / 'plots'}",
                markup=False,
            )
        if outcome.note:
            out.print(outcome.note, markup=False)

    emit(outcome.as_dict(), as_json, render)
    return outcome.status
