"""Parts of a model whose weights are new, so that every method trains them besides its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

_ATTRIBUTE = "_ftcli_new_modules"


def declare_new(model: nn.Module, names: Iterable[str]) -> None:
    """Say that these modules of a model (by their full names) hold weights nobody has trained."""
    setattr(model, _ATTRIBUTE, tuple(names))


def new_modules(model: nn.Module) -> tuple[str, ...]:
    """The modules that were declared new; none where everything is pretrained."""
    found: tuple[str, ...] = getattr(model, _ATTRIBUTE, ())
    return found


def outside_core(model: nn.Module) -> list[str]:
    """Children with parameters that stand beside transformers' base model: the head of a task."""
    core = getattr(model, "base_model_prefix", "")
    return [
        name
        for name, child in model.named_children()
        if name != core and next(child.parameters(), None) is not None
    ]


def name_classes(model: Any, names: Sequence[str]) -> None:
    """Write class names into the model's configuration, in the order of the head's outputs."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
