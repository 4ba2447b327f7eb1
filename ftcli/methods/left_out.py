"""Weight matrices of the base that an adapter does not train, by pattern, with share and reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ftcli.methods.all_linear import ROUTER
from ftcli.models.anatomy import Anatomy, true_numel
from ftcli.models.experts import find_expert_weights, find_router_weights

MANY = 0.02  # share of all parameters above which more than routers and convolutions is left out


@dataclass(frozen=True)
class LeftOutWeights:
    """Weights of one pattern (`model.layers.*.mlp.gate.weight`) with their number and share of the model."""

    pattern: str
    count: int
    parameters: int
    share: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the record of a run."""
        return asdict(self)


def list_left_out(
    model: nn.Module, reasons: Mapping[str, str] | None = None
) -> list[LeftOutWeights]:
    """Return the matrices that an adapted model keeps frozen, largest first; empty without adapted layers.

    Token, position and output tables are not counted: `all-linear` never includes them.

    Args:
        model: prepared by its method.
        reasons: name -> why a weight is left out; for other weights the reason follows from their module.
    """
    adapted = _find_adapted(model)
    if not adapted:
        return []
    reasons = {**_find_structural(model), **(reasons or {})}
    groups: dict[tuple[str, str], list[int]] = {}
    for name, module, weight in _iterate_matrices(model):
        if id(weight) not in adapted and not weight.requires_grad:
            reason = reasons.get(name) or _explain(module, weight)
            key = (re.sub(r"(?<=\.)\d+(?=\.)", "*", name), reason)
            size = true_numel(module, name.rpartition(".")[2], weight)
            groups.setdefault(key, []).append(size)
    total = Anatomy(model).parameters()
    weights = [
        LeftOutWeights(pattern, len(sizes), sum(sizes), sum(sizes) / total, reason)
        for (pattern, reason), sizes in groups.items()
    ]
    return sorted(weights, key=lambda item: -item.parameters)


def summarise(weights: Sequence[LeftOutWeights]) -> str:
    """Return `4.1 % of all parameters: mlp.gate.weight 24 (a router), ...`, each reason once."""
    texts: dict[str, list[str]] = {}
    for item in weights:
        short = item.pattern.rpartition("*.")[2]
        texts.setdefault(item.reason, []).append(f"{short} {item.count}")
    listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in texts.items())
    return f"{sum(item.share for item in weights):.2%} of all parameters: {listed}"


def _find_adapted(model: nn.Module) -> set[int]:
    """Return the ids of weights that have an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    weights: set[int] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            base: Any = module.get_base_layer()
            name = getattr(module, "parameter_name", "weight")
            weights |= {id(p) for key, p in base.named_parameters(recurse=False) if key == name}
    return weights


def _iterate_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield name, module and weight of two or more dimensions, once each, without embeddings and head."""
    anatomy = Anatomy(model)
    head = anatomy.head[1] if anatomy.head else None
    seen: set[int] = set()
    for owner, module in anatomy.modules.items():
        if hasattr(module, "num_embeddings") or module is head:
            continue
        for key, weight in module.named_parameters(recurse=False):
            if weight.dim() > 1 and not key.endswith("bias") and id(weight) not in seen:
                seen.add(id(weight))
                yield f"{owner}.{key}", module, weight


def _find_structural(model: nn.Module) -> dict[str, str]:
    stacks = {stack.name: "stacked experts" for stack in find_expert_weights(model)}
    return stacks | dict.fromkeys(find_router_weights(model), ROUTER)


def _explain(module: nn.Module, weight: nn.Parameter) -> str:
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return "a convolution"
    if hasattr(module, "in_features") or hasattr(module, "nf"):
        return "not in method.target_modules"
    return "a parameter without a layer"
