"""Learning rates that differ between parameters: the groups of a built optimizer, split by factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ftcli.core.errors import UserError


def scale_rates(optimizer: Optimizer, factors: Mapping[str, float], model: nn.Module) -> None:
    """Multiply the base rates (`initial_lr`) of some parameters, before the first step.

    Each group is split by factor and keeps its other settings. Groups whose rate stays come first, so that
    the `lr` of the log is the optimizer's. Calls multiply.

    Args:
        factors: name of a parameter of `model` -> factor of its rate; others keep theirs.

    Raises:
        UserError: the optimizer has one rate for all parameters.
    """
    if not getattr(optimizer, "uses_backward", True):
        raise UserError(
            f"{type(optimizer).__name__} moves all parameters along one direction at one rate.",
            where="callback",
            fix="optimizer=adamw, or leave out the rates of single parameters",
        )
    by_parameter = {id(p): factors[n] for n, p in model.named_parameters() if n in factors}
    split: list[tuple[float, dict[str, Any]]] = []
    for group in optimizer.param_groups:
        parts: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            parts.setdefault(by_parameter.get(id(parameter), 1.0), []).append(parameter)
        for factor, parameters in (parts or {1.0: []}).items():
            rates = {key: group[key] * factor for key in ("lr", "initial_lr")}
            split.append((factor, {**group, **rates, "params": parameters}))
    split.sort(key=lambda part: part[0] != 1)
    optimizer.param_groups[:] = [group for _, group in split]


def list_trained(model: nn.Module) -> list[str]:
    """Return the names of the parameters that require a gradient.

    Raises:
        UserError: there is none.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names:
        raise UserError("nothing is trainable, so there is no rate to set.", where="method")
    return names
