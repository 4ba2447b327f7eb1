"""Evaluate a finished run, or any model on the data of a job, and store the scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.evaluation.named_sets import select_split

if TYPE_CHECKING:
    from ftcli.core.run import Run


def evaluate_path(
    path: str | Path,
    tasks: Sequence[str] = (),
    split: str | None = None,
    job: str | None = None,
    checkpoint: str = "last",
) -> dict[str, dict[str, float]]:
    """Return the scores of a run directory or a model folder, by task.

    A run is evaluated with its own data and evaluators, and the scores of each task are written to
    `eval/<task>.json` of the run (`eval/<task>-<split>.json` for a split the config does not name). A bare model needs `job`, a YAML that names data and evaluators.

    Args:
        tasks: names of the evaluators to run, `<set>/<name>` on a named set; all of them when empty.
        split: evaluate on this split instead of the one that the config names.
        checkpoint: which weights of a run: last, best, or step-000400.

    Raises:
        UserError: the folder is neither a run nor a model, or a task is not one of the run's.
    """
    folder = Path(path)
    run = _open_run(folder, job, checkpoint)
    scores = {}
    with run.evaluation_weights():
        for task, evaluator in _choose_evaluators(run.evaluators, tasks).items():
            name = task
            if split and "/" in task and task not in tasks:  # a named set has rows of its own
                continue
            if split and split != evaluator.split:
                name, evaluator = f"{task}-{split}", select_split(evaluator, split)
            scores[name] = evaluator(run)
            if run.dir is not None:
                _save_scores(run, name, evaluator.split, checkpoint, scores[name])
    return scores


def _open_run(folder: Path, job: str | None, checkpoint: str) -> Run:
    from ftcli.run.build import build_run, open_run

    if (folder / "config.yaml").exists():
        return open_run(folder, checkpoint=checkpoint)
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is neither a run (no config.yaml) nor a model (no config.json).",
            fix="ftcli ls runs",
        )
    if job is None:
        raise UserError(
            f"{folder} is a model without evaluation data.",
            fix=f"ftcli eval {folder} --config configs/qlora_llama.yaml",
        )
    from ftcli.config import compose, validate_and_convert

    composed = compose(job, [f"model.path={folder}"])
    composed.config["model"].pop("gguf_file", None)  # which says where other weights are
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    return run


def _choose_evaluators(evaluators: dict[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    unknown = [task for task in tasks if task not in evaluators]
    if unknown or not evaluators:
        raise UserError(
            f"{', '.join(unknown)}: no such task here." if unknown else "there is no task to run.",
            where="--tasks" if unknown else "eval",
            fix=f"one of: {', '.join(evaluators)}" if evaluators else "use a config with eval=e2e",
        )
    return {name: evaluators[name] for name in tasks or evaluators}


def _save_scores(
    run: Run, task: str, split: str, checkpoint: str, scores: dict[str, float]
) -> None:
    from ftcli.core.atomic import write_json

    assert run.dir is not None
    folder = run.dir.path / "eval"
    folder.mkdir(exist_ok=True)
    write_json(
        folder / f"{task.replace('/', '-')}.json",
        {
            "task": task,
            "split": split,
            "checkpoint": checkpoint,
            "step": run.evaluated_step,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "scores": scores,
        },
    )
