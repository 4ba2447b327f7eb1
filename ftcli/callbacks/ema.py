"""Exponential moving average of the trained weights, which is what is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.core.callback import Callback, State, StateSize
from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class EMA(Callback):
    """Averages the trained weights over the steps.

    After step t = 1, 2, ... the average is a <- d_t a + (1 - d_t) w, in float32, beginning with the weights
    before the first step; d_t = min(decay, (1 + t) / (10 + t)) with `warmup`, so that a short run forgets where
    it began, else d_t = decay.

    Evaluations, checkpoints' weights, the artefact and all verbs after training see the average. Training goes on
    with the weights themselves, which checkpoints hold beside it, so that a resumed run is equal to the bit.
    """

    decay: float = 0.999  # share of the average that a step keeps, at most
    warmup: bool = True  # lower the decay in the first steps

    def __post_init__(self) -> None:
        self._weights: list[nn.Parameter] = []
        self._average: list[Tensor] = []
        self._saved_training_weights: list[
            Tensor
        ] = []  # the weights in training while the model holds the average
        self._steps = 0

    def setup(self, run: Run) -> None:
        """Begin with the weights as they are.

        Raises:
            UserError: a pipeline runs the steps, or the method moves its values to other places.
        """
        if not run.method.averageable:
            raise UserError(
                f"{type(run.method).__name__} moves its values to other entries of a weight while it trains, so "
                "that an average over steps would mix them.",
                where="callback",
                fix="~callback.ema, or method=lora",
            )
        if run.pipeline is not None:
            raise UserError(
                "an average of the weights is not supported in federated training.",
                where="callback",
                fix="~callback.ema",
            )
        groups = run.optimizer_builder.optimizer.param_groups
        self._weights = [p for group in groups for p in group["params"]]
        self._average = [p.detach().to(torch.float32, copy=True) for p in self._weights]

    @torch.no_grad()
    def after_step(self, state: State) -> None:
        """Move the average towards the weights of this step."""
        self._steps += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self._steps) / (10 + self._steps))
        for average, weight in zip(self._average, self._weights, strict=True):
            average.lerp_(weight.to(average.dtype), 1 - decay)

    @torch.no_grad()
    def swap_in_eval_weights(self) -> None:
        """Put the average into the model; nothing where it is there, or nothing was trained."""
        if self._saved_training_weights or not self._weights:
            return
        self._saved_training_weights = [p.detach().clone() for p in self._weights]
        _copy(self._average, self._weights)

    @torch.no_grad()
    def restore_training_weights(self) -> None:
        """Put the weights in training back, to the bit."""
        if self._saved_training_weights:
            _copy(self._saved_training_weights, self._weights)
            self._saved_training_weights = []

    def count_state(self, trained: Iterable[tuple[str, tuple[int, ...], torch.dtype]]) -> StateSize:
        """Return 4 bytes a trained value; a checkpoint also holds the weights in training."""
        sizes = [(prod(shape), dtype.itemsize) for _, shape, dtype in trained]
        average = sum(4 * count for count, _ in sizes)
        return StateSize(average, average + sum(count * width for count, width in sizes))

    def state_dict(self) -> dict[str, Any]:
        """Return the average, the weights in training, and the number of steps."""
        training = self._saved_training_weights or [p.detach() for p in self._weights]
        return {"average": list(self._average), "training": list(training), "steps": self._steps}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, into the model too."""
        _copy(saved["average"], self._average)
        _copy(saved["training"], self._weights)
        self._steps = saved["steps"]


def _copy(values: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    for value, target in zip(values, targets, strict=True):
        target.copy_(value)
