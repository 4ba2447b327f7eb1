"""The one mechanism by which papers enter the loop: objects the Trainer calls at fixed moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ftcli.core.run import Run


@dataclass
class State:
    """Where the loop stands. Counters start at 0 and are exact after a resume."""

    run: Run
    model: nn.Module
    max_steps: int
    step: int = 0  # optimizer steps done
    epoch: int = 0  # passes over the data finished
    batch: int = 0  # micro-batches of this epoch already trained on
    tokens: int = 0  # tokens seen, padding not counted
    supervised: int = 0  # tokens that had a label
    best: float | None = None  # lowest validation loss so far


class Callback:
    """Base of everything that takes part in a run; each moment does nothing unless overridden.

    A callback with state returns it from `state_dict`: it is then checkpointed under its own
    name and restored on resume, with nothing else to register.
    """

    def setup(self, run: Run) -> None:
        """Once, after the model is loaded and prepared, before the first step."""

    def before_step(self, state: State) -> None:
        """Before the forward passes of an optimizer step: choose what trains now."""

    def after_backward(self, state: State) -> None:
        """Raw gradients of the whole accumulated batch are there, not clipped yet."""

    def after_step(self, state: State) -> None:
        """The weights have moved."""

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl has been measured."""

    def on_evaluate(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Scores have been measured, under names that start with `eval.`."""

    def on_train_end(self, state: State) -> None:
        """The last step is done, or the run stops for another reason."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a crash, as tensors and plain values; empty when there is nothing."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
