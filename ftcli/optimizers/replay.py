"""Runs that are their start and a list of scalars: the log of gradient-free steps, and its replay."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.callback import State
from ftcli.optimizers.library import LibraryOptimizer

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
