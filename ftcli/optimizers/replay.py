"""Runs that are their start and a list of scalars: the log of gradient-free steps, and its replay."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.optimizers.library import LibraryOptimizer
from ftcli.optimizers.mezo import Direction

if TYPE_CHECKING:
    from ftcli.core.run import Run

FILE = "steps.bin"
#: One direction: seed uint32, slope float32, learning rate float32, little-endian. 12 bytes.
RECORD = struct.Struct("<Iff")


class Replayable(LibraryOptimizer):
    """A gradient-free optimizer whose steps are written to `steps.bin` of the run.

    The directions follow the seed of the run unless `optimizer.seed` is set. With the base weights
    the log is the trained model (arXiv 2305.17333): see `replay`.
    """

    path: Path | None = None
    written = 0  # records

    def setup(self, run: Run) -> None:
        """Seed the directions and find the place of the log."""
        super().setup(run)
        self.optimizer.reseed(run.seed)
        if run.dir is not None and run.accelerator.is_main_process:
            self.path = run.dir.path / FILE

    def after_step(self, state: State) -> None:
        """Write down the step."""
        if self.path is None:
            return
        with self.path.open("ab" if self.written else "wb") as file:
            file.write(b"".join(RECORD.pack(*direction) for direction in self.optimizer.taken))
        self.written += len(self.optimizer.taken)

    def state_dict(self) -> dict[str, Any]:
        """How far the log goes."""
        return super().state_dict() | {"written": self.written}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from there; steps after the checkpoint are taken again and leave the log."""
        self.written = saved["written"]
        if self.path is not None and self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(self.written * RECORD.size)


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
    from ftcli.core.run import Run

    run = Run(dict(load(folder / "config.yaml").config) | {"logger": {}})
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
