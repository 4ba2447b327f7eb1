"""`stages:` of a job: consecutive runs, each starting from the weights of the previous one.

The folder of such a job holds one ordinary run directory per stage. All of them are composed,
validated and written before the first one starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.config import compose, load, validate_and_convert
from ftcli.config.job import ComposedJob, get_capability, get_effective_value
from ftcli.core.atomic import write_json
from ftcli.core.errors import Problems, UserError
from ftcli.core.run_dir import RunDir, is_plain_name
from ftcli.jobs import changes, trial
from ftcli.jobs.launch import LaunchTopology

KEY = "stages"
MERGED = "merged"  # folder in a stage: its merged model, for a next stage with another method
WEIGHT_KEYS = (
    "model.path",
    "model.weights",
    "model.revision",
    "model.gguf_file",
)  # keys that say where weights are from


def is_parent(folder: str | Path) -> bool:
    """Whether a folder belongs to a job with stages."""
    return (Path(folder) / "config.yaml").is_file() and bool(list_stages(folder))


def list_stages(folder: str | Path) -> list[str]:
    """Return the names of the stages of a folder, in order; empty for an ordinary run."""
    return list(load(Path(folder) / "config.yaml").config.get(KEY) or {})


def start_stages(composed: ComposedJob, topology: LaunchTopology | None = None) -> dict[str, Any]:
    """Train all stages in a new folder `<run.dir>/<run.name>/<time>`; returns the content of result.json.

    Raises:
        UserError, Problems: a stage is not valid; nothing has started then.
    """
    options = composed.config["run"]
    jobs = compose_stages(composed)
    run_dir = RunDir.create(options.get("dir", "runs"), options["name"])
    with run_dir.removed_on_user_error():
        _write_records(composed, jobs, run_dir.path)
        return _run_stages(run_dir.path, topology)


def resume_stages(
    folder: str | Path,
    allow: Sequence[str] = (),
    checkpoint: str = "last",
    overrides: Sequence[str] = (),
    topology: LaunchTopology | None = None,
) -> dict[str, Any]:
    """Skip finished stages, resume the interrupted one, and train the others.

    Args:
        allow, checkpoint: as for resuming a run; `checkpoint` applies to the interrupted stage.
        overrides: as for resuming a run; they apply to every stage that is not finished.
        topology: the processes in which the stages train; None: this one.

    Raises:
        UserError: all stages are finished, an override may not change, or a stage fails.
    """
    if RunDir(folder).result().get("status") == "finished":
        fix = f"ftcli show {folder}"
        if overrides:
            fix = f"ftcli resume {find_last_run(folder)} {' '.join(overrides)}"
        raise UserError(f"{folder}: all its stages are finished.", fix=fix)
    return _run_stages(Path(folder), topology, allow, checkpoint, overrides)


def record_stages(composed: ComposedJob, folder: Path) -> None:
    """Write the records of a job and all its stages to a folder, unless they exist."""
    if not (folder / "config.yaml").exists():
        jobs = compose_stages(composed)
        folder.mkdir(parents=True, exist_ok=True)
        _write_records(composed, jobs, folder)


def compose_stages(composed: ComposedJob) -> dict[str, ComposedJob]:
    """Return name -> composed and validated stage: the job, the overrides of the stage, then the command line's.

    Raises:
        UserError, Problems: the errors of all stages.
    """
    jobs: dict[str, ComposedJob] = {}
    problems: list[UserError] = []
    for name, overrides in composed.config[KEY].items():
        try:
            jobs[name] = _compose_stage(composed, name, overrides)
        except UserError as error:
            stage_problems = error.problems if isinstance(error, Problems) else [error]
            for problem in stage_problems:
                problem.what = f"stage {name}: {problem.what}"
            problems += stage_problems
    Problems.raise_if_any(problems)
    return jobs


def _compose_stage(composed: ComposedJob, name: str, overrides: Sequence[str]) -> ComposedJob:
    if not is_plain_name(name):
        raise UserError(
            "its name cannot be used as the name of a folder.", where=composed.where(KEY)
        )
    stage = compose(composed.job_file, [*overrides, *composed.overrides])
    stage.config.pop(KEY, None)
    stage.drop_origins(KEY)
    validate_and_convert(stage)
    return stage


def _write_records(composed: ComposedJob, jobs: dict[str, ComposedJob], folder: Path) -> None:
    from ftcli.core.precision import resolve_precision
    from ftcli.run.record import write_record

    folder = folder.resolve()
    last: tuple[Path, ComposedJob] | None = None
    for name, stage in jobs.items():
        stage.config["run"] = {**stage.config["run"], "dir": str(folder), "name": name}
        stage.config = resolve_precision(stage.config)
        if last is not None:
            _connect_stage(stage, *last)
        last = folder / name, stage
    for name, stage in jobs.items():
        (folder / name / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_record(RunDir(folder / name), stage)
    if not any((folder / "checkpoints").glob("*")) and (folder / "checkpoints").is_dir():
        (folder / "checkpoints").rmdir()  # checkpoints belong to the stages
    composed.config = resolve_precision(composed.config)
    write_record(RunDir(folder), composed)
    first = next(iter(jobs.values()))
    _train_missing_base_of_stage(first)


def _train_missing_base_of_stage(first: ComposedJob) -> None:
    from ftcli.jobs.bases import train_missing_base

    train_missing_base(first)  # the model may be what another recipe trains


def _connect_stage(stage: ComposedJob, folder: Path, before: ComposedJob) -> None:
    """Configure a stage to start from the weights that the previous stage trains in `folder`."""
    model = before.config["model"]
    if get_capability(before, "method", "artefact") == "model":
        return _set_model_folder(stage, folder / "model")
    same = stage.config["method"] == before.config["method"] and _is_same_base(stage, before)
    how = get_effective_value(stage, "handover") or "auto"
    if how == "continue" and not same:
        raise UserError(
            f"stage {stage.config['run']['name']} cannot go on with the adapter of the previous stage: "
            "their methods or models differ.",
            where=stage.where("handover"),
            fix="handover=merge",
        )
    if same and how != "merge":
        stage.config["model"] = dict(model)
        stage.config["init_from"] = str(folder)
        stage.base_job = before.base_job
        return None
    if get_capability(before, "method", "mergeable") is False:
        raise UserError(
            f"{before.format_choice('method')} cannot be merged, and the next stage has another method.",
            where=before.where("method"),
            fix="one method for both stages",
        )
    return _set_model_folder(stage, folder / MERGED)


def _is_same_base(stage: ComposedJob, before: ComposedJob) -> bool:
    """Whether two stages are configured with the same model, apart from the location of its weights."""
    ours, theirs = (
        {k: v for k, v in job.config["model"].items() if f"model.{k}" not in WEIGHT_KEYS}
        for job in (stage, before)
    )
    return ours == theirs


def _set_model_folder(stage: ComposedJob, folder: Path) -> None:
    """Configure a folder as the model of a stage."""
    model = dict(stage.config["model"])
    if "path" not in model:
        raise UserError("this kind of model cannot be loaded from a folder.", stage.where("model"))
    model["path"] = str(folder)
    for key in ("revision", "gguf_file"):
        model.pop(key, None)
    if "weights" in model:
        model["weights"] = "pretrained"
    stage.config["model"], stage.base_job = model, None
    stage.origins["model.path"] = stage.origin(KEY)


def _run_stages(
    folder: Path,
    topology: LaunchTopology | None,
    allow: Sequence[str] = (),
    checkpoint: str = "last",
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    if topology is not None and topology.machines.count > 1:
        raise UserError(
            "stages train on one machine.", fix=f"without --nodes; -p {topology.processes}"
        )
    results: dict[str, dict[str, Any]] = {}
    for name in list_stages(folder):
        _merge_before_stage(folder / name)
        results[name] = _finish_stage(folder / name, topology, allow, checkpoint, overrides)
        if results[name]["status"] != "finished":
            break
    result = _summarise_stages(folder, results)
    write_json(folder / "result.json", result)
    return result


def _merge_before_stage(stage: Path) -> None:
    """Write the merged model of the previous stage, if this stage starts from it."""
    from ftcli.deltas.merge import merge_run

    path = Path(str(load(stage / "config.yaml").config["model"].get("path")))
    is_merged_stage = path.name == MERGED and path.parent.parent == stage.parent.resolve()
    if is_merged_stage and not path.exists():
        merge_run(path.parent, path)


def _finish_stage(
    folder: Path,
    topology: LaunchTopology | None,
    allow: Sequence[str],
    checkpoint: str,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """Return the result of one stage; a finished one is read, another one is resumed or trained."""
    from ftcli.jobs.train import restart, resume
    from ftcli.trainer.checkpoint import Checkpoints

    done = trial.read_finished_result(folder)
    if done is not None:
        return done
    run_dir = RunDir.open(folder)
    unreported = run_dir.result().get("status") == "finished"
    if unreported or Checkpoints(run_dir.checkpoints).list_complete():
        return resume(folder, allow, checkpoint, [] if unreported else overrides, topology)
    return restart(run_dir, changes.compose_config(run_dir, overrides), allow, folder, topology)


def _summarise_stages(folder: Path, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return result.json of the job: scores before the first and after the last stage, summed costs, all results."""
    first, last = (list(results.values())[i] for i in (0, -1))
    summed = ("step", "tokens", "supervised_tokens", "seconds", "forward_passes")
    return {
        **last,
        "run": str(folder),
        "max_steps": sum(stage["max_steps"] for stage in results.values()),
        **{key: sum(stage[key] for stage in results.values()) for key in summed},
        "metrics_before": first["metrics_before"],
        KEY: results,
    }


def find_last_run(folder: str | Path) -> Path:
    """Return the folder of the last stage; the folder itself where it has no stages."""
    stages = list_stages(folder)
    return Path(folder) / stages[-1] if stages else Path(folder)
