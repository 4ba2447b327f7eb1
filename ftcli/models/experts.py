"""Mixtures of experts in a model: the stacked weights of the experts, and their routers.

transformers keeps the experts of a layer as one parameter [experts, out, in] of a module that is no
linear layer. Both are found from structure: the module has an attribute with the number of experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ftcli.models.anatomy import Anatomy


@dataclass(frozen=True)
class ExpertWeight:
    """The stacked weight of a layer's experts, [experts, ., .] or, in some models, [experts * ., .].

    Attributes:
        name: dotted name of the parameter.
        owner: dotted name of its module.
        experts: how many it holds.
    """

    name: str
    owner: str
    parameter: nn.Parameter
    experts: int


def find_expert_weights(model: nn.Module) -> tuple[ExpertWeight, ...]:
    """Return the stacked expert weights in the order of the model, without adapters."""
    stacks = []
    for owner, module in Anatomy(model).modules.items():
        counts = {v for k, v in vars(module).items() if "expert" in k and type(v) is int and v > 1}
        for name, parameter in module.named_parameters(recurse=False):
            experts = _count_stacked(parameter, counts)
            if experts and not hasattr(module, "in_features"):
                stacks.append(ExpertWeight(f"{owner}.{name}", owner, parameter, experts))
    return tuple(stacks)


def find_router_weights(model: nn.Module) -> frozenset[str]:
    """Return the names of matrices [experts, in] in blocks with experts, which choose the experts."""
    modules = Anatomy(model).modules
    stacks = find_expert_weights(model)
    owners = {stack.owner for stack in stacks}
    routers = set()
    for stack in stacks:
        block = _find_block(stack.owner, modules)
        for name, module in modules.items():
            if name.startswith(f"{block}.") and name not in owners:
                routers |= {
                    f"{name}.{key}"
                    for key, p in module.named_parameters(recurse=False)
                    if p.dim() == 2 and p.shape[0] == stack.experts
                }
    return frozenset(routers)


def _count_stacked(parameter: nn.Parameter, counts: set[int]) -> int:
    rows = parameter.shape[0] if parameter.dim() else 0
    if parameter.dim() == 3:
        return rows if rows in counts else 0
    if parameter.dim() == 2:
        return next((n for n in counts if rows > n and rows % n == 0), 0)
    return 0


def _find_block(owner: str, modules: dict[str, nn.Module]) -> str:
    """Return the nearest ancestor of the stack's owner that has further children."""
    for ancestor in _ancestors(owner):
        if len(list(modules[ancestor].children())) > 1:
            return ancestor
    return owner


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
