"""Base classes of the PEFT tuners of ftcli, and their registration in PEFT.

A tuner is a module with a configuration (a dataclass of `peft.PeftConfig`), one layer class a
kind of base layer, a model, and a call of `register` at its end. PEFT's own save, load, merge,
`set_adapter` and `disable_adapter` then work on it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import PeftType, register_peft_method, resolve_quantization_backend
from torch import Tensor, nn


def register(name: str, config: type[PeftConfig], model: type[Tuner]) -> None:
    """Register a tuner in PEFT as `name` (lower case), with parameters named `<name>_...`.

    PEFT accepts only members of its enumeration, so the name is added to that first. Importing a module
    twice registers it once.
    """
    label = name.upper()
    if label not in PeftType.__members__:
        member = str.__new__(PeftType, label)
        member._name_, member._value_ = label, label
        type.__setattr__(PeftType, label, member)
        PeftType._member_map_[label] = member
        PeftType._value2member_map_[label] = member
        PeftType._member_names_.append(label)
    if getattr(PeftType, label) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config, model_cls=model)


class TunerLayer(nn.Module, BaseTunerLayer):
    """A layer around `base_layer`, with the parameters of each adapter in ParameterDicts.

    A subclass names those dictionaries in `adapter_layer_names` (they begin with the tuner's
    prefix), fills them in `add`, and defines `forward`. Where the adapter is a change of the weight it also
    defines `delta`; `__init__` creates the dictionaries.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer())
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())

    def add(self, adapter: str, config: Any) -> None:
        """Create the parameters of an adapter; data-dependent values only off the meta device."""
        raise TypeError(f"{type(self).__name__} does not define `add`")  # pragma: no cover

    def update_layer(self, adapter: str, config: Any, inference_mode: bool = False) -> None:
        """Add an adapter, on the device of the base layer, and make the active one trainable."""
        self.add(adapter, config)
        self._move_adapter_to_device_of_base_layer(adapter)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def delta(self, adapter: str) -> Tensor:
        """Return the change of the base layer's weight, in the layout of that weight.

        Raises:
            ValueError: the adapter is not a change of the weight, so it cannot be merged.
        """
        raise ValueError(
            f"{type(self).__name__} is not a change of a weight, so it cannot be merged"
        )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters to the base weight.

        Raises:
            ValueError: the sum is not finite (safe_merge).
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self._adapter_values():
                self._add_to_weight(adapter, 1.0, safe_merge)
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Subtract the merged adapters from the base weight."""
        while self.merged_adapters:
            self._add_to_weight(self.merged_adapters.pop(), -1.0, False)

    def adapters_in_effect(self) -> list[str]:
        """Names of adapters that act in a forward pass; none where they are disabled or merged."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return []
        return (
            []
            if self.merged
            else [name for name in self.active_adapters if name in self._adapter_values()]
        )

    def _adapter_values(self) -> Any:
        return getattr(self, self.adapter_layer_names[0])

    def _add_to_weight(self, adapter: str, sign: float, safe: bool) -> None:
        weight = self.get_base_weight()
        shifted = weight + sign * self.delta(adapter).to(weight.dtype)
        if safe and not torch.isfinite(shifted).all():
            raise ValueError(f"merging {adapter} gives values that are not finite")
        self.set_base_weight(shifted)


class Tuner(BaseTuner):
    """Replaces base layers by tuner layers.

    A subclass sets `prefix` ("<name>_"), `tuner_layer_cls` and `layers`: kind of base layer -> class
    of its tuner layer. Quantised linear layers count as `nn.Linear`. Where that is not enough it says
    how a base layer is `wrapped`, or how an adapter is added (`adapt`).
    """

    layers: ClassVar[dict[type, type[TunerLayer]]] = {}
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012  (as in PEFT: not a class variable)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: Any,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, TunerLayer):
            self.add_adapter_to_layer(target, adapter_name, peft_config, current_key)
            return
        layer = self.wrap_layer(target, peft_config)
        self.add_adapter_to_layer(layer, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter is trained only when it is set active
        self._replace_module(parent, target_name, layer, layer.base_layer)

    def wrap_layer(self, target: nn.Module, config: Any) -> TunerLayer:
        """Return the tuner layer around a base layer, without adapters."""
        return self.layer_class(target)(target)

    def add_adapter_to_layer(self, layer: TunerLayer, adapter: str, config: Any, name: str) -> None:
        """Add an adapter to a tuner layer, whose name in the model is `name`."""
        layer.update_layer(adapter, config, config.inference_mode)

    def layer_class(self, target: nn.Module) -> type[TunerLayer]:
        """Return the tuner layer class for a base layer.

        Raises:
            TypeError: there is none for this kind of layer.
        """
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        for kind, layer in self.layers.items():
            if isinstance(base, kind):
                return layer
        backend = resolve_quantization_backend(base)
        if backend is not None and backend.layer_type == "linear" and nn.Linear in self.layers:
            return self.layers[nn.Linear]
        kinds = ", ".join(kind.__name__ for kind in self.layers)
        raise TypeError(f"{type(self).__name__} cannot adapt {type(base).__name__}, only {kinds}")
