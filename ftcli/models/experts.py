"""Mixtures of experts inside a model: the stacked weights of the experts, and what routes to them.

transformers keeps the experts of a layer as one parameter [experts, out, in] of a module that is no
linear layer. Both are found from structure: a stack's owner knows how many experts there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ftcli.models.anatomy import Anatomy


@dataclass(frozen=True)
class ExpertWeight:
    """One stacked weight: its dotted name, the module that owns it, and how many experts it holds.

    Matrices are [experts, ., .]; some models lay them below one another, [experts * ., .].
    """

    name: str
    owner: str
    parameter: nn.Parameter
    experts: int


def find_expert_weights(model: nn.Module) -> tuple[ExpertWeight, ...]:
    """The stacked expert weights of a model in its order, adapters left out."""
    found = []
    for owner, module in Anatomy(model).modules.items():
        counts = {v for k, v in vars(module).items() if "expert" in k and type(v) is int and v > 1}
        for name, parameter in module.named_parameters(recurse=False):
            experts = _count_stacked(parameter, counts)
            if experts and not hasattr(module, "in_features"):
                found.append(ExpertWeight(f"{owner}.{name}", owner, parameter, experts))
    return tuple(found)


def find_router_weights(model: nn.Module) -> frozenset[str]:
    """Names of the matrices that choose experts: [experts, in], in a block that holds experts."""
    modules = Anatomy(model).modules
    stacks = find_expert_weights(model)
    owners = {stack.owner for stack in stacks}
    routers = set()
    for stack in stacks:
        block = _block(stack.owner, modules)
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


def _block(owner: str, modules: dict[str, nn.Module]) -> str:
    """The nearest ancestor that holds more than the owner of the stack."""
    for ancestor in _ancestors(owner):
        if len(list(modules[ancestor].children())) > 1:
            return ancestor
    return owner


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
