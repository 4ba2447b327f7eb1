"""Training of the last blocks only, the same from the first step to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftcli.core.callback import State
from ftcli.trainable.blockwise import Blockwise
from ftcli.trainable.selection import Interval, within

if TYPE_CHECKING:
    from ftcli.core.run import Run


class TopLayers(Blockwise):
    """The last `count` blocks and what is always on; the rest of the candidates never moves.

    Args:
        count: blocks from the end of the model (of its decoder, where it has an encoder too).
    """

    def __init__(self, count: int = 2, always_on: list[str] | None = None) -> None:
        super().__init__(Interval(), always_on=always_on)
        self.count = count

    def setup(self, run: Run) -> None:
        """Find the blocks.

        Raises:
            UserError: there are fewer than `count`, or see `Blockwise.setup`.
        """
        super().setup(run)
        within(self.count, len(self.candidates.blocks), "trainable.count")

    def choose(self, state: State) -> list[int]:
        """The last ones."""
        return self.candidates.blocks[-self.count :]
