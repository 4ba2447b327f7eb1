"""Build a Run from a resolved configuration: in a new run directory, in an existing one, or without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.config import ComposedJob, build, load
from ftcli.config.job import COLLECTIONS, REQUIRES
from ftcli.config.paths import get_job_name
from ftcli.core.precision import resolve_precision
from ftcli.core.run import Run
from ftcli.core.run_dir import RunDir
from ftcli.evaluation.named_sets import add_named_sets

#: Groups of one object; optional groups may be missing in a configuration or be null.
REQUIRED = ("model", "data", "method", "objective", "optimizer", "scheduler", "trainer")
OPTIONAL = ("trainable", "pipeline")


def build_run(
    config: dict[str, Any], dir: RunDir | None = None, composed: ComposedJob | None = None
) -> Run:
    """Return the run of a resolved configuration; no model and no data are loaded.

    Args:
        dir: directory of the run; None for a run that writes nothing.
        composed: where the configuration came from, for messages.
    """
    config = resolve_precision(config)
    groups = [*REQUIRED, *(group for group in OPTIONAL if config.get(group))]
    components = {group: build(config[group], group, composed) for group in groups}
    for group in COLLECTIONS:  # an object set to null is left out
        nodes = {n: node for n, node in (config.get(group) or {}).items() if node and n != REQUIRES}
        components[group] = {
            name: build(node, f"{group}.{name}", composed) for name, node in nodes.items()
        }
    components["eval"] = add_named_sets(components["eval"], components["data"])
    return Run(config, components, dir)


def create_run_in_new_dir(composed: ComposedJob) -> Run:
    """Return a run with a new directory that holds its record; removed again if an object refuses its options."""
    run_dir = create_directory(composed)
    with run_dir.removed_on_user_error():
        return build_run(composed.config, run_dir, composed)


def open_run(path: str | Path, checkpoint: str = "last") -> Run:
    """Return the run of a folder with its model loaded, in eval mode, with the weights of a checkpoint.

    Args:
        checkpoint: `last`, `best` or a folder's name such as `step-000400`.

    Raises:
        UserError: the folder is not a run, or has no such checkpoint.
    """
    from ftcli.trainer.checkpoint import Checkpoints
    from ftcli.trainer.checkpoint_io import WEIGHTS, load_weights
    from ftcli.trainer.manifest import step_of

    run_dir = RunDir.open(path)
    run = build_run(load(run_dir.path / "config.yaml").config, run_dir)
    folder = Checkpoints(run_dir.checkpoints).find(checkpoint, verify_files=WEIGHTS)
    run.load_model()
    load_weights(folder, run)
    run.evaluated_step = step_of(folder)
    run.model.eval()
    return run


def create_directory(composed: ComposedJob) -> RunDir:
    """Create a run directory with the record of the configuration, command and machine."""
    from ftcli.run.record import write_record

    options = composed.config.get("run") or {}
    name = options.get("name") or get_job_name(composed.job_file)
    run_dir = RunDir.create(options.get("dir", "runs"), name)
    composed.config = resolve_precision(composed.config)
    write_record(run_dir, composed)
    return run_dir
