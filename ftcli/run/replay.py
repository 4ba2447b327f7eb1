"""A run rebuilt from the log of its steps, without data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.core.run import Run
from ftcli.optimizers.mezo import Direction
from ftcli.optimizers.replay import FILE, RECORD


def steps(path: Path, directions: int = 1) -> Iterator[list[Direction]]:
    """The directions of each step of a log.

    Raises:
        UserError: there is no log, or it ends within a step.
    """
    if not path.exists():
        raise UserError(f"there is no {path}.", fix="replay a run of optimizer=mezo")
    size = RECORD.size * directions
    content = path.read_bytes()
    if len(content) % size:
        raise UserError(f"{path} ends within a step: {len(content)} bytes in steps of {size}.")
    for start in range(0, len(content), size):
        found = RECORD.iter_unpack(content[start : start + size])
        yield [Direction(*record) for record in found]


def replay(folder: Path) -> Run:
    """The run of a folder with the weights that its log leads to; no data and no loss are needed.

    Equal to the trained weights to the bit, on the kind of device that trained them.

    Raises:
        UserError: the run has no log.
    """
    from ftcli.config import load
    from ftcli.run.build import build_run

    run = build_run(dict(load(folder / "config.yaml").config) | {"logger": {}})
    run.load_model()
    named = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
    optimizer: Any = run.optimizer.build(named, run.accelerator.device)
    state = State(run, run.model, 0)
    choosing = [part for part in (run.method, run.trainable) if part is not None]
    for part in choosing:
        part.setup(run)
    for taken in steps(folder / FILE, optimizer.directions):
        for part in choosing:
            part.before_step(state)
        optimizer.replay(taken)
        state.step += 1
    return run
