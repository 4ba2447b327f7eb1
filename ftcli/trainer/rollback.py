"""Rollback of a running training: to the state before a step, or to one of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ftcli.core.errors import FAILED, UserError
from ftcli.trainer.checkpoint_io import load_checkpoint, load_pt

if TYPE_CHECKING:
    from ftcli.trainer.context import TrainingContext


class Snapshot:
    """A copy of what a step changes before its metrics are known to be finite.

    With gradients that is the state of the callbacks. A gradient-free optimizer has moved the weights
    by the time its losses are known, so weights and optimizer state are copied too.
    """

    def __init__(self, context: TrainingContext) -> None:
        self.callbacks = {n: deepcopy(p.state_dict()) for n, p in context.callbacks.items()}
        self.metrics = dict(context.meter.metrics)
        self.weights: list[Tensor] = []
        if not context.uses_backward:
            self.weights = [p.detach().clone() for p in context.parameters]
            self.optimizer = deepcopy(context.optimizer.state_dict())

    @torch.no_grad()
    def restore(self, context: TrainingContext) -> None:
        """Return the training to the state before the step.

        Raises:
            UserError: the state of a callback cannot be restored.
        """
        context.optimizer.zero_grad(set_to_none=True)
        if self.weights:
            context.optimizer.load_state_dict(self.optimizer)
            for parameter, value in zip(context.parameters, self.weights, strict=True):
                parameter.copy_(value)
        context.meter.metrics = self.metrics
        restore_callbacks(context, self.callbacks, "trainer.on_nonfinite")


def restore_checkpoint(context: TrainingContext, target: Path) -> None:
    """Return a running training to one of its own checkpoints, to the bit.

    Raises:
        UserError: the state of a callback or of the method cannot be restored.
    """
    context.optimizer.zero_grad(set_to_none=True)
    load_checkpoint(target, context)
    saved = load_pt(target / "participants.pt")
    restore_callbacks(context, saved, "trainer.on_spike")
    run = context.run
    with run.evaluation_weights():
        restored = equal_states(
            run.get_trained_tensors(), load_file(target / "adapter.safetensors")
        )
    if not restored:
        raise _build_restore_error("method", "trainer.on_spike")


def restore_callbacks(context: TrainingContext, saved: Mapping[str, Any], key: str) -> None:
    """Load the saved states into the callbacks, and check that they are equal afterwards.

    Args:
        key: the option that asked for the rollback, for the message.

    Raises:
        UserError: a callback's state differs after loading.
    """
    for name, part in context.callbacks.items():
        then = saved.get(name, {})
        if equal_states(part.state_dict(), then):
            continue
        try:
            part.load_state_dict(then)
        except (KeyError, IndexError, RuntimeError) as error:
            raise _build_restore_error(name, key) from error
        if not equal_states(part.state_dict(), then):
            raise _build_restore_error(name, key)


def _build_restore_error(name: str, key: str) -> UserError:
    off = {"trainer.on_nonfinite": "stop", "trainer.on_spike": "ignore"}[key]
    return UserError(
        f"{name} has changed in a way that cannot be undone while a run goes on; it stopped.",
        where=key,
        fix=f"ftcli resume RUN {key}={off}",
        code=FAILED,
    )


def equal_states(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit; tensors are compared on the CPU."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        a, b = one.detach().cpu(), other.detach().cpu()
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_states(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal_states, one, other))
    return bool(one == other)
