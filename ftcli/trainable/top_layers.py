"""Policy that trains the last blocks only, the same ones in all steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftcli.core.callback import State
from ftcli.trainable.blockwise import Blockwise
from ftcli.trainable.selection import Interval, check_count

if TYPE_CHECKING:
    from ftcli.core.run import Run


class TopLayers(Blockwise):
    """Trains the last `count` blocks and the parameters that are always on; other blocks are frozen.

    Args:
        count: number of blocks from the end of the model (of the decoder in an encoder-decoder).
    """

    def __init__(self, count: int = 2, always_on: list[str] | None = None) -> None:
        super().__init__(Interval(), always_on=always_on)
        self.count = count

    def setup(self, run: Run) -> None:
        """Sort the trained parameters into blocks.

        Raises:
            UserError: there are fewer than `count` blocks; or as `Blockwise.setup`.
        """
        super().setup(run)
        check_count(self.count, len(self.candidates.blocks), "trainable.count")

    def choose(self, state: State) -> list[int]:
        """Return the numbers of the last blocks."""
        return self.candidates.blocks[-self.count :]
