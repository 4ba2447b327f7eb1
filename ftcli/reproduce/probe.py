"""What measurements of a finished run share: the same job once more, without a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftcli.core.run import Run


def rebuild_run(folder: Path, **groups: dict[str, Any]) -> Run:
    """A Run of the config in `folder`, untrained, that leaves nothing behind.

    Args:
        groups: keys that differ, by group: `trainer={"max_steps": 3}`.
    """
    from ftcli.config import load
    from ftcli.run.build import build_run

    config = dict(load(folder / "config.yaml").config) | {"logger": {}}
    for group, keys in groups.items():
        config[group] = {**config[group], **keys}
    return build_run(config)


def seed_of(folder: Path) -> int:
    """The seed of a run."""
    from ftcli.config import load

    return int(load(folder / "config.yaml").config["seed"])


def measure_distance(folder: Path, rebuilt: Run) -> float:
    """Largest difference between the trained weights and those of a run that was rebuilt another way.

    Infinite where the weights that were trained are those of the start: then nothing is shown.
    """
    from ftcli.run.build import open_run

    fresh = rebuild_run(folder)
    fresh.load_model()
    start, trained = fresh.trained_state(), open_run(folder).trained_state()
    if all((start[name] == value).all() for name, value in trained.items()):
        return float("inf")
    state = rebuilt.trained_state()
    return max((trained[name] - value).abs().max().item() for name, value in state.items())


def first_batch(run: Run) -> dict[str, Any]:
    """The first rows that the run trains on."""
    loader = run.loader()
    return loader.batch(loader.batches(0)[0])


def loss_of(run: Run, model: Any, batch: dict[str, Any]) -> Any:
    """Losses of the batch's learned tokens, float32 [n]."""
    with run.autocast():
        return run.objective(model, batch).values
