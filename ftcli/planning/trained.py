"""Which layers of a prepared model hold what is trained, in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from ftcli.models.anatomy import Anatomy
from ftcli.models.experts import expert_weights

WRAPPERS = 3  # dotted parts that a wrapper may put before the base model's names, and none


def layers(model: nn.Module) -> str:
    """`q_proj 8, v_proj 8, 2 other tensors`: linear layers and experts by their last name, then the rest."""
    linears = {linear.name for linear in Anatomy(model).linears}
    linears |= {stack.owner for stack in expert_weights(model)}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    inside = [next((n for n in _ancestors(name) if n in linears), None) for name in names]
    found = Counter(name.rpartition(".")[2] for name in {name for name in inside if name})
    parts = [f"{name} {count}" for name, count in sorted(found.items())]
    others = inside.count(None)
    return ", ".join(parts + ([f"{others} other tensors"] if others else []))


def _ancestors(name: str) -> Iterator[str]:
    """Every run of a parameter's dotted parts that may be the name of its layer."""
    parts = name.split(".")
    for start in range(WRAPPERS):
        for end in range(len(parts) - 1, start, -1):
            yield ".".join(parts[start:end])
