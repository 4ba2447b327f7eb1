"""The files of a checkpoint: written from a training context, and loaded into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ftcli.core import atomic
from ftcli.core.errors import UserError
from ftcli.core.redaction import redact_tree
from ftcli.core.rng import random_state, set_random_state
from ftcli.methods.base import check_shapes
from ftcli.trainer import shards

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run
    from ftcli.core.run_dir import RunDir
    from ftcli.trainer.context import TrainingContext

#: The files needed to use the trained weights, as patterns of names.
WEIGHTS = ("adapter.safetensors", "adapter_config.json", shards.PATTERN)
MAY_BE_LEFT_OUT = ("logger.", "callback.")  # what a resume may drop is decided by `jobs.changes`
COUNTERS = ("step", "epoch", "batch", "tokens", "supervised", "best")


def write_checkpoint_files(folder: Path, context: TrainingContext, best: bool) -> None:
    """Write the state of the training to a folder, but for what `shards.write_shards` has put there.

    Args:
        best: recorded in `state.json`: whether this checkpoint is the best so far.
    """
    run, state = context.run, context.state
    if shards.holds_shards(folder):
        write_description(folder, run)
    else:
        with run.evaluation_weights():  # callbacks keep those in training in their own state
            save_weights(folder, run)
        _save_pt(context.optimizer.state_dict(), folder / "optimizer.pt")
    saved = {name: callback.state_dict() for name, callback in context.callbacks.items()}
    _save_pt({name: s for name, s in saved.items() if s}, folder / "participants.pt")
    _save_pt(random_state(), folder / "rng.pt")
    position = {"epoch": state.epoch, "batch": state.batch, "fingerprint": context.fingerprint}
    position |= {
        "ranks": context.accelerator.num_processes,
        "micro_batches": context.micro_batches_per_step,
    }
    atomic.write_json(folder / "loader.json", position)
    counters = {name: getattr(state, name) for name in COUNTERS}
    counters["meter"] = context.meter.state_dict()
    counters["lines"] = _count_kept_lines(run.dir, state) if run.dir else 0
    counters["is_best"] = best
    atomic.write_json(folder / "state.json", counters | {"config": redact_tree(run.config)})


def _count_kept_lines(run_dir: RunDir, state: State) -> int:
    """Return how many lines of metrics.jsonl, which is synced, a resume keeps.

    Scores after the last step are not kept: a run that was killed before its result measures them
    again, and one that goes on for longer evaluates at its own intervals.
    """
    lines = run_dir.sync_metrics()
    if state.step < state.max_steps:
        return lines
    last = run_dir.metrics()[-1:]
    return lines - sum(any(key.startswith("eval.") for key in row) for row in last)


def save_weights(folder: Path, run: Run) -> None:
    """Write the trained weights as safetensors, and the description of the method that reads them."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in run.get_trained_tensors().items()}
    save_file(tensors, folder / "adapter.safetensors", metadata={"format": "pt"})
    write_description(folder, run)


def write_description(folder: Path, run: Run) -> None:
    """Write the description of the method that reads the trained weights."""
    atomic.write_json(folder / "adapter_config.json", run.method.describe())


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the trained weights of a checkpoint by name, whole also where ranks have written parts."""
    if shards.holds_shards(folder):
        return shards.read_whole_weights(folder)
    return load_file(folder / "adapter.safetensors")


def load_weights(folder: Path, run: Run) -> None:
    """Load the weights of a checkpoint into the run's model.

    Raises:
        UserError: their names or shapes are those of another method or model.
    """
    tensors = read_weights(folder)
    check_shapes(run.method.get_trained_tensors(run.model), tensors)
    run.method.load_trained_tensors(run.model, tensors)


def load_checkpoint(folder: Path, context: TrainingContext) -> None:
    """Restore weights, optimizer, callbacks, counters and random generators from a checkpoint."""
    if shards.holds_shards(folder):
        shards.read_shards(folder, context)
    else:
        load_weights(folder, context.run)
        context.optimizer.load_state_dict(load_pt(folder / "optimizer.pt"))
    for name, saved in load_pt(folder / "participants.pt").items():
        if name in context.callbacks or not name.startswith(MAY_BE_LEFT_OUT):
            context.callbacks[name].load_state_dict(saved)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for name in COUNTERS:
        setattr(context.state, name, state[name])
    context.state.batch = (
        state["batch"] * _position(folder)["ranks"] // context.accelerator.num_processes
    )
    context.meter.load_state_dict(state["meter"])
    set_random_state(load_pt(folder / "rng.pt"))


def preserve_global_batch_size(run: Run, folder: Path) -> None:
    """Set gradient_accumulation_steps so that a step has as many micro-batches over all ranks as the checkpoint's.

    Raises:
        UserError: the number of micro-batches is not divisible by the number of ranks.
    """
    total, ranks = _position(folder)["micro_batches"], run.accelerator.num_processes
    if total is None or ranks == _position(folder)["ranks"]:
        return
    if total % ranks:
        ways = ", ".join(f"-p {n}" for n in range(1, total + 1) if total % n == 0)
        raise UserError(
            f"a step of this run has {total} micro-batches, which {ranks} ranks cannot share evenly.",
            where=str(folder),
            fix=ways,
        )
    run.trainer.gradient_accumulation_steps = total // ranks


def _position(folder: Path) -> dict[str, Any]:
    """Return the position in the data, which checkpoints of 0.1.0 hold without ranks."""
    content = json.loads((folder / "loader.json").read_text(encoding="utf-8"))
    return {"ranks": 1, "micro_batches": None} | content


def _save_pt(value: Any, path: Path) -> None:
    """Write with torch.save to a Python stream, so that disk errors stay OSErrors with their errno."""
    with open(path, "wb") as stream:
        torch.save(value, stream)


def load_pt(path: Path) -> dict[str, Any]:
    """Load a `.pt` file of a checkpoint on the CPU: tensors and plain values, never code."""
    return torch.load(path, map_location="cpu", weights_only=True)
