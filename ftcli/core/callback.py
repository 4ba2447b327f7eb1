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
    supervised: int = 0  # tokens that had a label
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
        """Raise where this cannot take part in training a prepared model, which may be on the meta device.

        `ftcli check` calls it; `setup` does where there is something to refuse.

        Raises:
            UserError: what the model lacks.
        """

    def setup(self, run: Run) -> None:
        """Called once, before the first step, when the model is loaded and the optimizer is built."""

    def before_step(self, state: State) -> None:
        """Called before the forward passes of an optimizer step, the place to choose what trains in it."""

    def after_backward(self, state: State) -> None:
        """Called when the gradients of all micro-batches of a step are there, before clipping."""

    def after_step(self, state: State) -> None:
        """Called after the optimizer has taken the step and the counters have advanced."""

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Called with the figures of a line of metrics.jsonl."""

    def on_evaluate(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Called with the scores of an evaluation, whose names start with `eval.`."""

    def on_train_end(self, state: State) -> None:
        """Called when the last step is done, or the run was asked to stop."""

    def should_end(self) -> str | None:
        """Return why the present step should be the last one; asked after evaluations and on a resume."""
        return None

    def eval_mode(self) -> None:
        """Put the weights that are evaluated and saved into the model, where others are trained."""

    def train_mode(self) -> None:
        """Put the weights in training back, to the bit."""

    def count_state(self, trained: Iterable[tuple[str, tuple[int, ...], torch.dtype]]) -> StateSize:
        """Return the bytes kept for trained tensors of these names, shapes and types, for plans."""
        return StateSize()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as tensors and plain values; empty where there is no state."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
