"""The log of gradient-free steps: with the base weights, a list of scalars is the trained model."""

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

    The directions follow the seed of the run unless `optimizer.seed` is set. Replaying the log from the
    base weights gives the trained weights (arXiv 2305.17333).
    """

    path: Path | None = None
    written = 0  # records

    def setup(self, run: Run) -> None:
        """Seed the directions and set the path of the log."""
        super().setup(run)
        self.optimizer.reseed(run.seed)
        if run.dir is not None and run.accelerator.is_main_process:
            self.path = run.dir.path / FILE

    def after_step(self, state: State) -> None:
        """Append the directions of the step to the log."""
        if self.path is None:
            return
        with self.path.open("ab" if self.written else "wb") as file:
            file.write(
                b"".join(RECORD.pack(*direction) for direction in self.optimizer.last_directions)
            )
        self.written += len(self.optimizer.last_directions)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of records in the log."""
        return super().state_dict() | {"written": self.written}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Truncate the log to the records of the checkpoint; later steps are repeated."""
        self.written = saved["written"]
        if self.path is not None and self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(self.written * RECORD.size)
