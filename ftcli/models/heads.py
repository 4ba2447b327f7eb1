"""Heads of classifiers: modules with new weights, which every method trains, and what feeds a head."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftcli.models.state_dict_check import Misfit

_ATTRIBUTE = "_ftcli_new_modules"


def declare_new_modules(model: nn.Module, names: Iterable[str]) -> None:
    """Declare that these modules of a model, by their full names, hold untrained weights."""
    setattr(model, _ATTRIBUTE, tuple(names))


def get_new_modules(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that were declared new; none where all is pretrained."""
    names: tuple[str, ...] = getattr(model, _ATTRIBUTE, ())
    return names


def find_head_modules(model: nn.Module) -> list[str]:
    """Return the names of children with parameters outside transformers' base model: the task's head."""
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


def pool_by_mean(model: PreTrainedModel) -> None:
    """Feed the head the mean of all output tokens in place of the base model's pooled output.

    Raises:
        UserError: the head of this model does not use a pooled output.
    """

    def mean(_: Any, __: Any, output: Any) -> Any:
        if getattr(output, "pooler_output", None) is None:
            raise UserError(
                f"the head of {type(model).__name__} uses no pooled output.",
                where="model.pool",
                fix="model.pool=model",
            )
        output.pooler_output = output.last_hidden_state.mean(1)
        return output

    model.base_model.register_forward_hook(mean)


def draw_head(model: PreTrainedModel, head: list[str]) -> None:
    """Draw new weights for the whole head, as the model's class does."""
    for name in head:
        module = model.get_submodule(name)
        for part in (*module.modules(), *module.parameters()):
            setattr(part, "_is_hf_initialized", False)  # noqa: B010  (no attribute mypy knows)
        module.apply(model._init_weights)


def drop_head_misfits(misfit: Misfit, model: PreTrainedModel) -> Misfit:
    """Return the misfit without the differences of a head, so that only those below it are left.

    Allowed are heads of other tasks in the files and parts that only their training used; a head or
    pooler that the files lack is new, and every method trains it.
    """
    core, head = (
        f"{model.base_model_prefix}.",
        tuple(f"{name}." for name in find_head_modules(model)),
    )
    parts = re.compile(r"(^|\.)(pooler|mask_token)(\.|$)")
    of_head = (n for n in [*misfit.missing, *misfit.mismatched] if n.startswith(head))
    unused = (n for n in misfit.unexpected if not n.startswith(core))
    poolers = (n for n in [*misfit.missing, *misfit.unexpected] if parts.search(n))
    return misfit.exclude([*of_head, *unused, *poolers])
