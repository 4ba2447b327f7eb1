"""What moves at a time where a trainable policy lets some blocks rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from ftcli.core.callback import State
from ftcli.planning.draft import Draft
from ftcli.planning.weights import size
from ftcli.trainable.blockwise import Blockwise, StateOnSwitch


@dataclass(frozen=True)
class Moving:
    """The most that moves at a step, and what becomes of the optimizer state of what rests.

    Attributes:
        names: parameters with a gradient, by name.
        resting: keep, drop or offload. Where the same blocks move from first to last, nothing
            that rests ever has a state, which is drop.
    """

    names: frozenset[str]
    resting: StateOnSwitch


def moving(draft: Draft) -> Moving:
    """What moves at a time in a job; without a policy of blocks, all that its method trains.

    Of blocks that are drawn anew the largest are taken, of equal ones the lowest: they keep most for
    the backward pass.

    Raises:
        UserError: the policy does not fit the model.
    """
    policy, model = draft.trainable, draft.model
    if not isinstance(policy, Blockwise):
        trained = (name for name, p in model.named_parameters() if p.requires_grad)
        return Moving(frozenset(trained), "keep")
    run: Any = SimpleNamespace(
        model=model,
        seed=int(draft.config.get("seed", 0)),
        accelerator=SimpleNamespace(num_processes=1),
    )
    policy.setup(run)
    chosen = policy.choose(State(run, model, max_steps=1))
    stays = policy.every.steps is None and policy.every.epochs is None
    blocks = chosen if stays else _largest(policy, len(chosen))
    policy.active = list(blocks)
    on = {id(parameter) for parameter in policy.split()[0]}
    names = frozenset(name for name, parameter in policy.candidates if id(parameter) in on)
    return Moving(names, "drop" if stays else policy.state_on_switch)


@contextmanager
def only(model: nn.Module, names: frozenset[str]) -> Iterator[None]:
    """Inside, of the parameters that require a gradient these alone do."""
    rest = [p for name, p in model.named_parameters() if p.requires_grad and name not in names]
    for parameter in rest:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in rest:
            parameter.requires_grad_(True)


def _largest(policy: Blockwise, count: int) -> list[int]:
    inside = policy.candidates.inside
    sizes = {block: sum(size(p) for _, p in held) for block, held in inside.items()}
    return sorted(sizes, key=lambda block: (-sizes[block], block))[:count]
