"""Rebuild the trained weights of a run from the log of its steps, without data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.core.run import Run
from ftcli.optimizers.mezo import Direction
from ftcli.optimizers.replay import FILE, RECORD


def read_steps(path: Path, directions: int = 1) -> Iterator[list[Direction]]:
    """Yield the directions of each step of a log.

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
        records = RECORD.iter_unpack(content[start : start + size])
        yield [Direction(*record) for record in records]


def replay_run(folder: Path) -> Run:
    """Return the run of a folder with the weights to which its log leads; computes no loss.

    They equal the trained weights to the bit on the kind of device that trained them.

    Raises:
        UserError: the run has no log.
    """
    from ftcli.config import load
    from ftcli.run.build import build_run

    run = build_run(dict(load(folder / "config.yaml").config) | {"logger": {}})
    run.load_model()
    named = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
    optimizer: Any = run.optimizer_builder.build(named, run.accelerator.device)
    state = State(run, run.model, 0)
    selectors = [part for part in (run.method, run.trainable) if part is not None]
    for selector in selectors:  # they choose which weights move
        selector.setup(run)
    for directions in read_steps(folder / FILE, optimizer.directions):
        for selector in selectors:
            selector.before_step(state)
        optimizer.replay(directions)
        state.step += 1
    return run
