"""What a run costs beside time: the optimizer's state and the parameters that move at a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftcli.core.callback import Callback, State
from ftcli.optimizers import state as optimizer_state

if TYPE_CHECKING:
    from ftcli.core.run import Run


class Costs(Callback):
    """Counts after every step; nothing is read from an accelerator, only sizes.

    `optimizer_state_bytes` and `_elements` are the most that was held after any step, counters of
    one element left out of the elements. `active_parameters` is the most that moved at one step.
    """

    def __init__(self) -> None:
        self.peak = {
            "optimizer_state_bytes": 0, "optimizer_state_elements": 0, "active_parameters": 0,
        }  # fmt: skip
        self.parameters: list[Any] = []

    def setup(self, run: Run) -> None:
        """Remember what may move."""
        self.parameters = [p for p in run.model.parameters() if p.requires_grad]

    def after_step(self, state: State) -> None:
        """Count."""
        optimizer = state.run.optimizer.optimizer
        self._note("optimizer_state_bytes", optimizer_state.nbytes(optimizer))
        self._note("optimizer_state_elements", optimizer_state.elements(optimizer))
        self._note("active_parameters", sum(p.numel() for p in self.parameters if p.requires_grad))

    def _note(self, name: str, value: int) -> None:
        self.peak[name] = max(self.peak[name], value)

    def state_dict(self) -> dict[str, Any]:
        """The peaks so far."""
        return dict(self.peak)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.peak = dict(saved)
