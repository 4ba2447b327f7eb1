"""How much each tensor lowers the loss: a step of the optimizer on one batch, which is undone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ftcli.core.rng import random_state, set_random_state
from ftcli.models.decoding import evaluation_mode
from ftcli.papers.greentrainer.costs import TensorCosts
from ftcli.papers.greentrainer.operators import OperatorRecorder

if TYPE_CHECKING:
    from ftcli.core.run import Run

Batch = dict[str, Any]


def record_costs(run: Run, batch: Batch) -> TensorCosts:
    """Return the costs of the run's model and objective on a batch, by one forward pass."""
    recorder, before = OperatorRecorder(run.model), random_state()
    with evaluation_mode(run) as model, recorder:
        run.objective(model, batch)
    set_random_state(before)
    return recorder.collect()


def measure_importance(
    run: Run, parameters: Mapping[str, nn.Parameter], batch: Batch, lr_factor: float
) -> dict[str, float]:
    """Return the importance of each tensor: by how much its change in one step lowers the loss.

    Section 3.3 of the paper, I_k = - sum_i (dL / dw_i) dw_i, divided by the largest |I|: dw is what the
    optimizer changes in a step, so that its step sizes count, and the gradient is taken behind it.
    Dropout is off and penalties are left out. Weights, optimizer and random generators are as before
    in the end, to the bit; in the authors' code the optimizer keeps both steps.

    Args:
        parameters: tensors that require a gradient, by name; no other may require one.
        lr_factor: factor on every group's initial learning rate.
    """
    optimizer = run.optimizer_builder.optimizer
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    before = random_state()
    with _restored(optimizer, parameters), evaluation_mode(run), torch.enable_grad():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor
        _backward(run, batch)
        if run.trainer.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), run.trainer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _backward(run, batch)
    set_random_state(before)
    importance = {}
    for name, parameter in parameters.items():
        change = (parameter.detach() - weights[name]).double()
        gradient = parameter.grad
        importance[name] = 0.0 if gradient is None else -float((gradient.double() * change).sum())
        parameter.data.copy_(weights[name])
        parameter.grad = None
    largest = max((abs(value) for value in importance.values()), default=0.0)
    return {name: value / (largest or 1.0) for name, value in importance.items()}


def _backward(run: Run, batch: Batch) -> None:
    losses = run.objective(run.model, batch)
    (run.objective.numerator(losses) / run.objective.denominator([batch])).backward()


@contextmanager
def _restored(optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Restore the optimizer's state of these parameters and the values of its groups after the block."""
    state = {
        name: copy.deepcopy(optimizer.state[p])
        for name, p in parameters.items()
        if p in optimizer.state
    }
    groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            optimizer.state.pop(parameter, None)
            if name in state:
                optimizer.state[parameter] = state[name]
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            group.update(values)
