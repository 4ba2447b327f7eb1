"""Train a new run or resume one, and record how it ended."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.config.renamed import update_old_config
from ftcli.core.base_model import record_base, refuse_other_base
from ftcli.core.disk import run_error
from ftcli.core.errors import FAILED, UserError
from ftcli.core.run import Run
from ftcli.core.run_dir import RunDir
from ftcli.core.run_lock import lock_run
from ftcli.jobs import changes
from ftcli.jobs.bases import train_missing_base
from ftcli.run.build import build_run, create_run_in_new_dir
from ftcli.run.finish import close_run_dir, finish

if TYPE_CHECKING:
    from ftcli.config import ComposedJob
    from ftcli.jobs.launch import LaunchTopology


def train(composed: ComposedJob) -> dict[str, Any]:
    """Train a validated configuration; returns the content of result.json.

    The run directory is removed if the user made a mistake and no step was taken; any other error keeps it.

    Raises:
        UserError: an error that the user can fix; code 3 when memory ran out, 1 when the loss was not
            finite.
    """
    train_missing_base(composed)  # the model may be what another recipe trains
    run = create_run_in_new_dir(composed)
    assert run.dir is not None
    with run.dir.removed_on_user_error():
        return train_with_lock(run, None, composed)


def resume(
    path: str | Path,
    allow: Sequence[str] = (),
    checkpoint: str = "last",
    overrides: Sequence[str] = (),
    topology: LaunchTopology | None = None,
) -> dict[str, Any]:
    """Resume a run at the exact batch where its checkpoint was written.

    Args:
        allow: configuration keys that may differ from the checkpoint's, besides those of
            `changes.FREE_KEYS`, and `data`.
        overrides: changes of the configuration, in Hydra's grammar; a finished run can be resumed
            with a larger number of steps. Its schedule is then that of the new length.
        topology: the processes in which it goes on; None: this one.

    Raises:
        UserError: the run is finished, the checkpoint does not exist or is incomplete, or config or
            data have changed.
    """
    run_dir = RunDir.open(path)
    try:
        with lock_run(run_dir.path):
            return _resume(run_dir, path, allow, checkpoint, overrides, topology)
    except OSError as error:
        raise run_error(error, run_dir.path) or error from error


def _resume(
    run_dir: RunDir,
    path: str | Path,
    allow: Sequence[str],
    checkpoint: str,
    overrides: Sequence[str],
    topology: LaunchTopology | None,
) -> dict[str, Any]:
    from ftcli.trainer.checkpoint import Checkpoints

    if run_dir.result().get("status") == "finished" and not overrides:
        if not (
            run_dir.path / "report.md"
        ).exists():  # killed after result.json and before report.md
            return close_run_dir(run_dir)
        raise changes.build_finished_error(run_dir.result(), path)
    checkpoints = Checkpoints(run_dir.checkpoints)
    composed = changes.compose_config(run_dir, overrides)
    if checkpoint == "last" and not checkpoints.list_complete():
        return restart(run_dir, composed, allow, path, topology)
    folder = checkpoints.find(checkpoint, fall_back=True)
    run = build_run(composed.config, run_dir, composed)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    then = update_old_config(state["config"])
    changed = changes.find_changes(then, run.config)
    changes.refuse_changes(changed, allow, overrides, path)
    _refuse_other_data(folder, run, allow, path)
    _refuse_other_base(run, allow, path)
    if overrides:
        steps = changes.require_further_steps(run, state["step"], path)
        changes.warn_schedule_change(run, then, state["step"], steps)
    with changes.record_changes(run_dir, run.config, changed if overrides else {}, state["step"]):
        run_dir.rewind(state["lines"], state["step"])
        run_dir.append_event(
            "resume", checkpoint=folder.name, **({"changed": changed} if changed else {})
        )
        return _train_or_launch(run, folder, composed, topology)


def restart(
    run_dir: RunDir,
    composed: ComposedJob,
    allow: Sequence[str] = (),
    path: str | Path | None = None,
    topology: LaunchTopology | None = None,
) -> dict[str, Any]:
    """Train a run that ended before its first checkpoint from the beginning."""
    from ftcli.config import load

    run = build_run(composed.config, run_dir, composed)
    before = load(run_dir.path / "config.yaml").config
    changed = changes.find_changes(before, run.config) if composed.overrides else {}
    changes.refuse_changes(changed, allow, composed.overrides, path)
    with changes.record_changes(run_dir, run.config, changed, 0):
        if run_dir.metrics():
            run_dir.append_event("restart", **({"changed": changed} if changed else {}))
        run_dir.rewind(0)  # samples may have been written before the first line
        return _train_or_launch(run, None, composed, topology)


def _train_or_launch(
    run: Run, checkpoint: Path | None, composed: ComposedJob, topology: LaunchTopology | None
) -> dict[str, Any]:
    """Train in this process, or in ranks."""
    from ftcli.jobs.launch import run_ranks

    if topology is None or not topology.several:
        return train_with_lock(run, checkpoint, composed)
    assert run.dir is not None
    return run_ranks(run.dir, topology, checkpoint)


def train_with_lock(
    run: Run, checkpoint: Path | None, composed: ComposedJob | None = None
) -> dict[str, Any]:
    """Train a run that has a directory, and write result and report.

    Args:
        checkpoint: the checkpoint to continue from; None: from the start.
        composed: where the configuration came from, for messages.

    Raises:
        UserError: known errors, with the place in the configuration.
    """
    with lock_run(run.dir.path) if run.dir else nullcontext():
        return train_and_record_failure(run, checkpoint, composed)


def train_and_record_failure(
    run: Run, checkpoint: Path | None, composed: ComposedJob | None = None
) -> dict[str, Any]:
    """Do what `train_with_lock` does in a run whose lock is held, by this process or by the parent of the ranks."""
    from ftcli.config.building import locate_error

    try:
        return _prepare_and_train(run, checkpoint, composed)
    except Exception as error:
        if run.dir is not None:
            with suppress(OSError):  # where the disk is what failed
                run.dir.append_event(
                    "failed", error=str(error), code=getattr(error, "code", FAILED)
                )
                run.dir.append_log(traceback.format_exc())
            disk_error = None if isinstance(error, UserError) else run_error(error, run.dir.path)
            if disk_error is not None:
                raise disk_error from error
        if isinstance(error, UserError):
            raise locate_error(error, composed) from error
        raise


def _prepare_and_train(
    run: Run, checkpoint: Path | None, composed: ComposedJob | None
) -> dict[str, Any]:
    from ftcli.core.atomic import write_json
    from ftcli.jobs import failures

    assert run.dir is not None
    with failures.translate_errors(run, composed):
        with run.accelerator.main_process_first():  # one rank tokenises, the others find it done
            described = _prepare_data(run)
        if run.accelerator.is_main_process:
            write_json(run.dir.path / "data.json", described)
        if checkpoint is None and run.config.get("init_from"):
            load_init_weights(run, run.config["init_from"])
        outcome = (run.pipeline or run.trainer).fit(run, checkpoint)
    return finish(run, outcome) if run.accelerator.is_main_process else {}


def _prepare_data(run: Run) -> dict[str, Any]:
    """Tokenise what is not cached, with a display; return the content of data.json."""
    from ftcli.data.dataset import Data
    from ftcli.data.progress import PreparationDisplay

    if isinstance(run.data, Data):
        with PreparationDisplay() as display:
            for split in run.data.splits:
                run.data.prepare(split, run.tokenizer, display)
    return dict(run.data.describe(run.tokenizer))


def load_init_weights(run: Run, folder: str | Path) -> None:
    """Load the trained weights of another run over the initial weights of the method.

    Raises:
        UserError: the weights belong to another method or model, or the method would overwrite them.
    """
    from ftcli.core.callback import Callback
    from ftcli.trainer.checkpoint import Checkpoints
    from ftcli.trainer.checkpoint_io import WEIGHTS, load_weights

    if type(run.method).setup is not Callback.setup:
        raise UserError(
            f"{type(run.method).__name__} initialises its weights when a run begins, and would overwrite "
            "those of another.",
            where="init_from",
            fix="handover=merge, between stages",
        )
    run.load_model()
    load_weights(
        Checkpoints(RunDir.open(folder).checkpoints).find("last", verify_files=WEIGHTS), run
    )


def _refuse_other_base(run: Run, allow: Sequence[str], path: str | Path) -> None:
    assert run.dir is not None
    if "model" in allow:
        record_base(run.dir.path, run.model_source)
        return
    try:
        refuse_other_base(run.dir.path, run.model_source)
    except UserError as error:
        allowed = f"{error.fix}; or ftcli resume {path} --allow model (training goes on with the new base)"
        raise UserError(error.what, error.where, allowed) from error


def _refuse_other_data(folder: Path, run: Run, allow: Sequence[str], path: str | Path) -> None:
    position = json.loads((folder / "loader.json").read_text(encoding="utf-8"))
    tokenized = run.data.prepare("train", run.tokenizer)
    if tokenized.fingerprint == position["fingerprint"] or "data" in allow:
        return
    raise UserError(
        f"{path} was at epoch {position['epoch']}, batch {position['batch']} of data "
        f"{position['fingerprint'][:8]}; the data now is {tokenized.fingerprint[:8]} "
        f"({len(tokenized):,} rows). The position cannot be restored.",
        where=f"data.path={run.config['data'].get('path')}"
        if run.config["data"].get("path")
        else "data.sources",
        fix=f"restore the data, or: ftcli resume {path} --allow data (the batches to come are "
        "drawn from the new rows)",
    )
