"""Callbacks: objects that the loop calls at fixed hooks, by which papers take part in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftcli.core.run import Run


@dataclass
class State:
    """Counters of the loop. They start at 0 and are exact after a resume."""

    run: Run
    model: nn.Module
    max_steps: int
    step: int = 0  # optimizer steps done
    epoch: int = 0  # passes over the data finished
    batch: int = 0  # micro-batches of this epoch already trained on
    tokens: int = 0  # tokens seen, padding not counted
    supervised: int = 0  # tokens that had a label, of all ranks like `tokens`
    best: float | None = None  # lowest validation loss so far
    ended_early: str | None = None  # why a callback made this step the last one


class StateSize(NamedTuple):
    """Bytes that a callback keeps beside model and optimizer: in memory, and in a checkpoint."""

    memory: int = 0
    checkpoint: int = 0


class Callback:
    """Base of everything that takes part in a run; a hook does nothing unless overridden.

    A callback with state returns it from `state_dict`; checkpoints hold it under the callback's name
    and a resume restores it, without registration.
    """

    def check_model(self, model: nn.Module) -> None:
        """Refuse a prepared model that the callback cannot train; the model may be on the meta device.

        `ftcli check` calls this method before a run. A callback that overrides it must also call it in its own `setup`.

        Raises:
            UserError: what the model lacks.
        """

    def setup(self, run: Run) -> None:
        """Prepare for training: runs once, after the optimizer is built and before the first step."""

    def before_step(self, state: State) -> None:
        """Prepare an optimizer step: runs before its forward passes, where parameters may be frozen or unfrozen."""

    def after_backward(self, state: State) -> None:
        """Read or change gradients: runs after the backward passes of all micro-batches, before clipping."""

    def after_step(self, state: State) -> None:
        """React to a step: runs after the optimizer has updated the weights and the counters have advanced."""

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Receive the metrics of a line of metrics.jsonl."""

    def on_evaluate(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Receive the scores of an evaluation; their names start with `eval.`."""

    def on_train_end(self, state: State) -> None:
        """Clean up: runs after the last step, or after a request to stop."""

    def get_stop_reason(self) -> str | None:
        """Return why training should end after the present step, or None; asked after evaluations and on a resume."""
        return None

    def swap_in_eval_weights(self) -> None:
        """Switch the model to the weights that are evaluated and saved, if training uses others (EMA)."""

    def restore_training_weights(self) -> None:
        """Switch the model back to the weights in training, restored bit for bit."""

    def count_state(self, trained: Iterable[tuple[str, tuple[int, ...], torch.dtype]]) -> StateSize:
        """Return the bytes kept for trained tensors of these names, shapes and types, for plans."""
        return StateSize()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as tensors and plain values; empty where there is no state."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
