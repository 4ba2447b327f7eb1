"""Merging where the output head is tied to the token embeddings and an adapter changes one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from ftcli.methods.base import Method

SAME = 1e-6  # share of the largest weight by which two merged copies of one matrix may differ


def merge_untied(method: Method, model: Any) -> Any:
    """Return the merged model, with tied matrices separated where an adapter changed one of them.

    PEFT adapts a matrix in one place. Tied matrices are one tensor, so that merging would change the
    other place too: each place gets its own copy before the merge. If both are equal afterwards
    (`ensure_weight_tying`), they are tied again.
    """
    tied = _asks_for_tie(model.config)
    untie_adapted(model)
    merged = method.merge(model)
    if tied:
        update_tied_config(merged)
    return merged


def untie_adapted(model: nn.Module) -> None:
    """Give every place of a shared parameter its own copy, if one of them has an adapter."""
    places: dict[int, list[tuple[nn.Module, str, str]]] = {}
    for name, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, attribute, name))
    adapted = _find_adapted_modules(model)
    for shared in places.values():
        if len(shared) > 1 and any(name in adapted for _, _, name in shared):
            for module, attribute, _ in shared[1:]:
                copy = getattr(module, attribute).detach().clone()
                setattr(module, attribute, nn.Parameter(copy, requires_grad=False))


def update_tied_config(model: Any) -> None:
    """Set `tie_word_embeddings` of the configuration by whether head and embeddings are still equal."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or table is None or head.weight is table.weight:
        return
    difference = (head.weight - table.weight).abs().max()
    same = bool(difference <= SAME * table.weight.abs().max())
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = same  # PEFT has written false for any two tensors
    if same:
        head.weight = table.weight
        return
    tied = getattr(model, "all_tied_weights_keys", {})
    names = {f"{name}.weight" for name, module in model.named_modules() if module is head}
    model.all_tied_weights_keys = {k: v for k, v in tied.items() if not {k, v} & names}


def _asks_for_tie(config: Any) -> bool:
    """Whether the configuration, or that of its text part, ties the embeddings."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return any(getattr(part, "tie_word_embeddings", False) for part in (config, text))


def _find_adapted_modules(model: nn.Module) -> set[str]:
    """Return the names of modules inside layers of PEFT: adapted modules and their copies."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    return {
        f"{layer}.{name}".rstrip(".")
        for layer in layers
        for name, _ in model.get_submodule(layer).named_modules()
    }
