"""LISA: full-rank training of a few random blocks at a time (arXiv 2403.17919)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftcli.core.callback import State
from ftcli.trainable.blockwise import Blockwise, StateOnSwitch
from ftcli.trainable.selection import Interval, check_count

if TYPE_CHECKING:
    from ftcli.core.run import Run


class Lisa(Blockwise):
    """Layerwise importance sampling (section 3.2 and algorithm 1).

    Embeddings, final norm and head are always trained (inclusion probability 1); of the N blocks
    `gamma` are drawn uniformly without replacement (probability gamma / N each) before step 0 and every
    `interval` steps. With `state_on_switch: drop` moments exist only for the blocks in training, which
    is the memory the paper counts; with `keep`, for every block trained so far, as if only
    `requires_grad` were switched.

    Args:
        gamma: number of blocks trained at a time.
        interval: optimizer steps between draws, K in the paper.
    """

    def __init__(
        self,
        gamma: int = 2,
        interval: int = 20,
        state_on_switch: StateOnSwitch = "drop",
        always_on: list[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(Interval(steps=interval), state_on_switch, always_on, seed)
        self.gamma = gamma

    def setup(self, run: Run) -> None:
        """Find the blocks.

        Raises:
            UserError: there are fewer blocks than `gamma`; see also `Blockwise.setup`.
        """
        super().setup(run)
        check_count(self.gamma, len(self.candidates.blocks), "trainable.gamma")

    def choose(self, state: State) -> list[int]:
        """Draw `gamma` blocks and return their numbers."""
        blocks = self.candidates.blocks
        return [blocks[i] for i in self.draws.draw_uniform(len(blocks), self.gamma).tolist()]
