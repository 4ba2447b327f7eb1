"""Helpers of measurements: build the run of a folder again without writing a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftcli.core.run import Run


def rebuild_run(folder: Path, **groups: dict[str, Any]) -> Run:
    """Return an untrained Run of the config in `folder` that writes nothing to disk.

    Args:
        groups: changed keys, by group: `trainer={"max_steps": 3}`.
    """
    from ftcli.config import load
    from ftcli.run.build import build_run

    config = dict(load(folder / "config.yaml").config) | {"logger": {}}
    for group, keys in groups.items():
        config[group] = {**config[group], **keys}
    return build_run(config)


def seed_of(folder: Path) -> int:
    """Return the seed of a run."""
    from ftcli.config import load

    return int(load(folder / "config.yaml").config["seed"])


def measure_distance(folder: Path, rebuilt: Run) -> float:
    """Return the largest difference between the trained weights and those of a rebuilt run.

    Infinite where training has not changed the weights, so that the comparison would show nothing.
    """
    from ftcli.run.build import open_run

    fresh = rebuild_run(folder)
    fresh.load_model()
    start, trained = fresh.get_trained_tensors(), open_run(folder).get_trained_tensors()
    if all((start[name] == value).all() for name, value in trained.items()):
        return float("inf")
    state = rebuilt.get_trained_tensors()
    return max((trained[name] - value).abs().max().item() for name, value in state.items())


def first_batch(run: Run) -> dict[str, Any]:
    """Return the first micro-batch that the run trains on."""
    loader = run.build_loader()
    return loader.batch(loader.list_batch_indices(0)[0])


def loss_of(run: Run, model: Any, batch: dict[str, Any]) -> Any:
    """Return the losses of the supervised tokens of a batch, float32 [n]."""
    with run.autocast():
        return run.objective(model, batch).values
