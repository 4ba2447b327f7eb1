"""Base class of trainable policies: which of the method's parameters are trained at a step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ftcli.core.callback import Callback


class Trainable(Callback):
    """Base of the policies of the group `trainable`.

    The parameters that require a gradient after `Method.prepare` are the candidates: the optimizer
    is built over all of them and checkpoints hold all of them. A policy turns `requires_grad` on and
    off among them in `before_step`, before the first forward pass of an optimizer step, so that
    accumulation never spans a switch. The state from which a policy chooses again is in its `state_dict`.
    """


def activate(on: Iterable[nn.Parameter], off: Iterable[nn.Parameter]) -> None:
    """Enable gradients of `on` and disable those of `off`.

    Gradients of `off` are dropped too, because the optimizer would still apply them.
    """
    for parameter in off:
        parameter.requires_grad_(False)
        parameter.grad = None
    for parameter in on:
        parameter.requires_grad_(True)
