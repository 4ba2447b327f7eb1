"""RST: random sparse tuning, the baseline of IST (arXiv 2410.11772)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftcli.core.callback import State
from ftcli.trainable.blockwise import Blockwise, StateOnSwitch
from ftcli.trainable.selection import Interval, count_share

if TYPE_CHECKING:
    from ftcli.core.run import Run


class Rst(Blockwise):
    """Train the adapters of a fraction of the blocks, drawn uniformly at every step.

    Adapters of the other blocks still act in the forward pass. Below the lowest trained block nothing
    requires a gradient, so no activations are kept there.

    Args:
        train_fraction: fraction of the blocks, rounded down.
    """

    def __init__(
        self,
        train_fraction: float = 0.25,
        state_on_switch: StateOnSwitch = "keep",
        always_on: list[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(Interval(steps=1), state_on_switch, always_on, seed)
        self.train_fraction = train_fraction

    def setup(self, run: Run) -> None:
        """Find the blocks.

        Raises:
            UserError: the fraction gives no block, or see `Blockwise.setup`.
        """
        super().setup(run)
        total = len(self.candidates.blocks)
        self.count = count_share(total, self.train_fraction, "trainable.train_fraction")

    def choose(self, state: State) -> list[int]:
        """Draw the blocks of this step."""
        blocks = self.candidates.blocks
        return [blocks[i] for i in self.draws.draw_uniform(len(blocks), self.count).tolist()]
