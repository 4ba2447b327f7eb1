"""The meaning of `all-linear` on a model: which layers an adapter of PEFT can train, and why not others.

PEFT's own `all-linear` is every `nn.Linear` except the head. That leaves out experts, which are
stacked in parameters; includes routers; and includes layers whose weight the model reads without
calling the layer, so that an adapter there has no effect until it is merged. For some mixtures of
experts PEFT also renames `gate_proj`, `up_proj` and `down_proj` to the experts' parameters, and the
dense and shared layers of these names get no adapter (PEFT 0.21.2, `_convert_peft_config_moe`).
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ftcli.models.experts import find_expert_weights, find_router_weights

#: Initialisations of LoRA that need nothing of the weight but its shape.
PLAIN_STARTS = (True, False, "gaussian")
ROUTER = "a router; name it in method.target_modules to train it"
BYPASSED = "the model reads its weight and does not call the layer"
NOT_LINEAR = "its forward is not that of a linear layer"
RENAMED = "PEFT confuses its name with that of the experts"
LOST = "PEFT renames its adapter on loading, and then does not find it"
EXCLUDED = "method.exclude_modules"


@dataclass(frozen=True)
class Selection:
    """Targets of an adapter.

    Attributes:
        modules: names of linear layers.
        parameters: names of weights that have to be reached without a layer.
        reasons: why a weight is left out, by its name.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)


def select_targets(config: Any, model: nn.Module) -> Selection:
    """Return the layers and stacked experts of a model that this adapter can train.

    Args:
        config: a configuration of PEFT; its kind of adapter and options decide what is possible.
        model: loaded, or on the meta device.
    """
    reasons: dict[str, str] = {}
    routers = find_router_weights(model)
    linears = dict(_linears(model))
    for name in linears:
        reason = _find_obstacle(name, linears[name], model, config, routers)
        if reason:
            reasons[f"{name}.weight"] = reason
    reasons |= {name: ROUTER for name in routers}
    modules = [name for name in linears if f"{name}.weight" not in reasons]
    lost = find_lost_on_loading(config, model, modules)
    reasons |= {f"{name}.weight": LOST for name in lost}
    modules = [name for name in modules if name not in lost]
    renamed = _find_renamed(config, model, modules)
    wanted = [f"{name}.weight" for name in modules if name in renamed]
    refusal = _find_refusal(config)
    later = getattr(model, "to_be_quantised", False)  # on the meta device weights are plain
    quantised = {
        f"{n}.weight" for n in renamed if later or not linears[n].weight.is_floating_point()
    }
    reasons |= {name: RENAMED for name in wanted if refusal or name in quantised}
    stacks = [stack for stack in find_expert_weights(model) if stack.parameter.dim() == 3]
    reasons |= {stack.name: refusal for stack in stacks if refusal}
    excluded = {s.name for s in stacks if _is_excluded(s.owner, config)}
    reasons |= dict.fromkeys(excluded, EXCLUDED)
    wanted += [stack.name for stack in stacks]
    return Selection(
        tuple(name for name in modules if name not in renamed),
        tuple(name for name in wanted if name not in reasons),
        reasons,
    )


def apply_selection(selection: Selection, config: Any, model: nn.Module) -> None:
    """Write a selection into a configuration, by the shortest names that match no other module."""
    modules = [name for name, _ in model.named_modules() if name]
    weights = [name for name, _ in model.named_parameters()]
    config.target_modules = set(shortest_suffixes(selection.modules, modules))
    if selection.parameters:
        config.target_parameters = shortest_suffixes(selection.parameters, weights, parts=2)


def shortest_suffixes(chosen: Collection[str], names: Iterable[str], parts: int = 1) -> list[str]:
    """Return the shortest dotted suffixes, of at least `parts` parts, that match only the chosen names."""
    others = set(names) - set(chosen)
    ends: set[str] = set()
    for name in chosen:
        pieces = name.split(".")
        for start in range(max(0, len(pieces) - parts), -1, -1):
            end = ".".join(pieces[start:])
            if not any(other == end or other.endswith(f".{end}") for other in others):
                break
        ends.add(end)
    return sorted(ends)


def _linears(model: Any) -> Iterator[tuple[str, Any]]:
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
            yield name, module


def _find_obstacle(
    name: str, module: Any, model: nn.Module, config: Any, routers: Collection[str]
) -> str | None:
    """Return why this layer gets no adapter; None where it gets one."""
    if f"{name}.weight" in routers:
        return ROUTER
    parent, _, leaf = name.rpartition(".")
    if _reads_weight(type(model.get_submodule(parent)), leaf):
        return BYPASSED
    if not _is_plain(module):
        return NOT_LINEAR
    return _find_peft_obstacle(config, model, leaf)


def _find_peft_obstacle(config: Any, model: nn.Module, leaf: str) -> str | None:
    """Return why PEFT refuses a layer of this name; None where it does not (its tuners' own check)."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)
    check = getattr(tuner, "_check_target_module_compatiblity", None)
    if check is None:
        return None
    try:
        check(None, config, model, leaf)
    except ValueError as error:
        return f"PEFT refuses it: {str(error).split('. ')[0]}"
    return None


def _reads_weight(parent: type, leaf: str) -> bool:
    """Whether the code of `parent` reads the whole weight of its child instead of calling the child.

    Slices do not count: they belong to simulated tensor parallelism, which is off by default.
    """
    pattern = rf"\bself\.{re.escape(leaf)}\.weight\b(?!\[|\.(?:data|dtype|device|shape|reshape)\b)"
    return any(
        re.search(pattern, line) and "init." not in line for line in _source(parent).splitlines()
    )


@lru_cache(maxsize=256)
def _source(cls: type) -> str:
    classes = [c for c in cls.__mro__ if c.__module__.startswith("transformers.models.")]
    try:
        return "\n".join(inspect.getsource(c) for c in classes)
    except (OSError, TypeError):  # a frozen or generated class has no file
        return ""


def _is_plain(module: Any) -> bool:
    """Whether a layer maps [.., in] to [.., out]; subclasses of `nn.Linear` in models may not."""
    if not type(module).__module__.startswith("transformers.models."):
        return True
    weight = module.weight
    states = torch.zeros(1, 2, weight.shape[1], dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            out = module(states)
    except (RuntimeError, TypeError, AttributeError):
        return False
    return isinstance(out, torch.Tensor) and out.shape == (1, 2, weight.shape[0])


def _find_renamed(config: Any, model: nn.Module, modules: list[str]) -> set[str]:
    """Names of layers that PEFT's conversion of old adapters mistakes for experts and leaves without adapter."""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    converted = copy.deepcopy(config)
    converted.target_modules = set(modules)
    convert_peft_config_for_transformers(converted, model, None)
    return set(modules) - set(converted.target_modules)


def find_lost_on_loading(config: Any, model: nn.Module, modules: Iterable[str]) -> set[str]:
    """Names of layers whose adapter PEFT renames on loading, as it renames the base's weights in old files."""
    from peft.utils.transformers_weight_conversion import (
        convert_peft_adapter_state_dict_for_transformers,
    )

    keys = {f"base_model.model.{name}.lora_A.weight": name for name in modules}
    state = {key: torch.empty(1, 1) for key in keys}
    loaded = convert_peft_adapter_state_dict_for_transformers(model, config, state)
    return {name for key, name in keys.items() if key not in loaded}


def _find_refusal(config: Any) -> str | None:
    """Return why this adapter cannot train a parameter without a layer; None where it can."""
    from peft import PeftType
    from peft.tuners.lora.layer import ParamWrapper

    if config.peft_type != PeftType.LORA:
        return f"{config.peft_type.value} cannot adapt stacked experts; method=lora can"
    if config.init_lora_weights not in PLAIN_STARTS:
        return f"init_lora_weights={config.init_lora_weights} does not work on stacked experts"
    owner = nn.Module()
    owner.weight = nn.Parameter(torch.empty(2, 4, 4))
    try:
        ParamWrapper(owner, "default", "weight", config=config, r=1, lora_alpha=1)
    except ValueError as error:
        return f"PEFT: {str(error).removeprefix('lora.ParamWrapper ').rstrip('.')}"
    return None


def _is_excluded(name: str, config: Any) -> bool:
    excluded = getattr(config, "exclude_modules", None) or ()
    if isinstance(excluded, str):
        return re.fullmatch(excluded, name) is not None
    return any(name == e or name.endswith(f".{e}") for e in excluded)
