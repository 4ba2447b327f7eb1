"""Start a sweep, or resume one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ftcli.config import paths
from ftcli.config.job import ComposedJob
from ftcli.core.atomic import write_link
from ftcli.core.errors import UserError
from ftcli.core.run_lock import lock_file
from ftcli.sweeps import composition, space
from ftcli.sweeps.launchers.base import Launcher
from ftcli.sweeps.outcome import Outcome, write_outcome
from ftcli.sweeps.plan import Plan
from ftcli.sweeps.runner import TrialRunner
from ftcli.sweeps.search import Grid, Search
from ftcli.sweeps.space import Point, Space
from ftcli.sweeps.table import SilentView, write_csv
from ftcli.sweeps.trial import Trial, folder_name

#: Builds the view from the trials, their planned number, and the metric.
MakeView = Callable[[Sequence[Trial], int, str], SilentView]


@composition.log_notes_once()
def start_sweep(plan: Plan, root: Path, view: MakeView = SilentView) -> Outcome:
    """Compose and validate every trial, then run them in a new folder `<root>/<name>/<time>`.

    Raises:
        UserError, Problems: errors of the sweep or any trial; nothing has started then.
    """
    plan.job = str(paths.find_job(plan.job).resolve())
    axes, launcher = _build_parts(plan)
    points = list(axes.corners() if plan.optuna else axes.grid())
    composed = composition.compose_all(plan.job, points, [axes.overrides(p) for p in points])
    _complete_plan(plan, composed[0])
    search = _choose_search(plan)
    folder = _new_folder(root, composed[0].config["run"]["name"])
    if not plan.optuna:
        plan.grid = _list_trials(points, axes)
    plan.write(folder)
    for kept, job in zip(plan.grid, composed, strict=not plan.optuna):
        composition.write_trial(job, folder / kept["folder"])
    return _run_sweep(folder, plan, search(plan, axes, folder), launcher, view)


@composition.log_notes_once()
def resume_sweep(
    folder: Path,
    view: MakeView = SilentView,
    jobs: int | None = None,
    trials: int | None = None,
    launcher: str | None = None,
) -> Outcome:
    """Resume a sweep: finished trials are kept, interrupted ones are resumed from their checkpoints.

    Args:
        jobs, trials, launcher: replace the settings that the sweep was started with.

    Raises:
        UserError: the folder is not a sweep, its job has changed, or another process works in it.
    """
    plan = Plan.read(folder)
    plan.jobs, plan.trials = jobs or plan.jobs, trials or plan.trials
    plan.launcher = launcher or plan.launcher
    axes, built_launcher = _build_parts(plan)
    for kept in plan.grid:  # killed before all were written
        if not (folder / kept["folder"] / "config.yaml").exists():
            job = composition.compose_trial(plan.job, kept["overrides"])
            composition.write_trial(job, folder / kept["folder"])
    plan.write(folder)
    return _run_sweep(folder, plan, _choose_search(plan)(plan, axes, folder), built_launcher, view)


def _build_parts(plan: Plan) -> tuple[Space, Launcher]:
    about, words = composition.split_launcher_words(plan.overrides)
    axes = space.parse_space(words, paths.build_search_path(Path(plan.job).parent))
    return axes, composition.build_launcher(plan.job, plan.launcher, [*axes.fixed, *about])


def _choose_search(plan: Plan) -> Callable[[Plan, Space, Path], Search]:
    """Return the class of the search; raises UserError where its package is missing."""
    if not plan.optuna:
        return Grid
    from ftcli.sweeps.study import Study, require_optuna

    require_optuna()
    return Study


def _run_sweep(
    folder: Path, plan: Plan, search: Search, launcher: Launcher, view: MakeView
) -> Outcome:
    jobs = plan.jobs or launcher.jobs
    with lock_file(folder / ".lock", wait=False) as free:
        if not free:
            raise UserError(f"another process runs the sweep in {folder}.", fix="wait for its end")
        launcher.open(folder, jobs)
        try:
            with view(search.trials, search.planned, plan.metric) as shown:

                def save_and_show(trial: Trial) -> None:
                    write_csv(folder / "sweep.csv", search.trials, plan.metric)
                    shown.show_end(trial)

                interrupted = TrialRunner(search, launcher, jobs, shown.update, save_and_show).run()
        finally:
            launcher.close()
        return write_outcome(folder, plan, search, interrupted)


def _complete_plan(plan: Plan, job: ComposedJob) -> None:
    """Set seed, evaluation interval and steps of the plan from the job.

    Raises:
        UserError: the job does not measure the scores that the sweep needs.
    """
    plan.seed = int(job.config.get("seed", 0))
    if plan.metric.startswith("eval.") and not any((job.config.get("eval") or {}).values()):
        raise UserError(
            f"{plan.metric} is never measured: the job has no evaluator.",
            where=job.where("eval"),
            fix="eval=loss, or another --metric, such as seconds",
        )
    if plan.pruner == "none":
        return
    every, steps = job.get("trainer.eval_every"), job.get("trainer.max_steps")
    if not every or not steps or every >= steps:
        raise UserError(
            f"pruning needs scores on the way, but trainer.eval_every={every} and "
            f"trainer.max_steps={steps}.",
            where=job.where("trainer.eval_every"),
            fix=f"trainer.max_steps={steps or 200} trainer.eval_every={max(1, (steps or 200) // 5)}",
        )
    plan.every, plan.steps = every, steps


def _new_folder(root: Path, name: str) -> Path:
    """`<root>/<name>/<time>-<2 hex>`, and the link `latest` beside it."""
    stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(1)}"
    folder = root / name / stamp
    folder.mkdir(parents=True)
    write_link(folder.parent / "latest", stamp)
    return folder


def _list_trials(points: Sequence[Point], axes: Space) -> list[dict[str, object]]:
    width = len(str(len(points) - 1))
    return [
        {"folder": folder_name(n, width, p), "point": p, "overrides": axes.overrides(p)}
        for n, p in enumerate(points)
    ]
