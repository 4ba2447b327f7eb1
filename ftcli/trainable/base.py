"""A trainable policy: which of the method's parameters move at this step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ftcli.core.callback import Callback


class Trainable(Callback):
    """Base of the policies of the group `trainable`.

    The parameters that require a gradient after `Method.prepare` are the candidates: the optimizer
    is built over all of them and checkpoints hold all of them. A policy turns `requires_grad` on and
    off among them in `before_step`, before the first forward pass of an optimizer step, so that
    accumulation never sees a switch. What it needs to choose again is in its `state_dict`.
    """


def activate(on: Iterable[nn.Parameter], off: Iterable[nn.Parameter]) -> None:
    """Let the first move and freeze the others, whose gradients are dropped: a step would use them."""
    for parameter in off:
        parameter.requires_grad_(False)
        parameter.grad = None
    for parameter in on:
        parameter.requires_grad_(True)
