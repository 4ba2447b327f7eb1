"""SSF (arXiv 2210.08823): a trained scale and shift for each channel, after every operation.

    y = scale * x + shift          x [..., C]: output of a linear layer, convolution or norm

Both fold into the operation itself, W' = diag(scale) W and b' = scale * b + shift, so that the tuned
model has the layers of the base and no further cost (section 3.2, equations 4 and 6).

A shift exists where its layer has a bias to fold it into, or can be given one (`new_biases`). An
RMSNorm has no bias and is only scaled. Before a linear layer that is scaled and shifted nothing is lost,
since W (n + s) = W n + W s and the constant W s is part of that layer's shift.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.anatomy import Anatomy
from ftcli.papers.ssf.layers import (
    SsfBatchNorm,
    SsfConv,
    SsfConv1D,
    SsfLayer,
    SsfLinear,
    SsfNorm,
    is_rms_norm,
)


@dataclass
class SsfConfig(PeftConfig):
    """Options of SSF.

    Args:
        target_modules: names of layers; null takes every linear, convolution and norm but the head.
        exclude_modules: names of target layers that are left out.
        modules_to_save: layers that are trained themselves, such as a new classifier.
        init_std: scales are drawn from N(1, init_std²), shifts from N(0, init_std²); 0: the model is the base.
        new_biases: also shift layers without a bias; merging adds one. False: such layers are only
            scaled, and the merged model always has the base's class.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_std: float = 0.02
    new_biases: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("SSF")
        if self.init_std < 0:
            raise ValueError(f"init_std must be 0 or more, not {self.init_std}")


class SsfModel(Tuner):
    """Scales and shifts the outputs of a model's layers."""

    prefix = "ssf_"
    tuner_layer_cls = SsfLayer
    layers: ClassVar[dict[type, type[TunerLayer]]] = {
        nn.Linear: SsfLinear,
        Conv1D: SsfConv1D,
        nn.Conv1d: SsfConv,
        nn.Conv2d: SsfConv,
        nn.Conv3d: SsfConv,
        nn.LayerNorm: SsfNorm,
        nn.BatchNorm1d: SsfBatchNorm,
        nn.BatchNorm2d: SsfBatchNorm,
        nn.BatchNorm3d: SsfBatchNorm,
    }

    def layer_class(self, target: nn.Module) -> type[TunerLayer]:
        """Return the tuner layer class; RMSNorms are recognised by structure, as each model has its own class.

        Raises:
            TypeError: there is none for this layer.
        """
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        weight = getattr(base, "weight", None)
        if weight is None or isinstance(base, NonDynamicallyQuantizableLinear):
            # the latter is in nn.MultiheadAttention, which reads its weight and does not call it
            raise TypeError(f"{type(base).__name__} has no weight of its own to fold a scale into")
        return SsfNorm if is_rms_norm(base) else super().layer_class(target)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Return the base model with scales and shifts folded in, and new biases set in its configuration.

        Raises:
            ValueError: the model's class has no parameters for the new biases, so that they would be lost
                when the merged model is saved and loaded.
        """
        self._declare_biases(adapter_names or self.active_adapters)
        merged: nn.Module = super().merge_and_unload(progressbar, safe_merge, adapter_names)
        return merged

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # no list by model family: `_prepare_model` sees the model itself

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        if peft_config.target_modules is None:
            peft_config.target_modules = set(self._foldable_layers(model))

    def _foldable_layers(self, model: nn.Module) -> Iterator[str]:
        anatomy = Anatomy(model)
        head = anatomy.head[1] if anatomy.head else None
        for name, module in anatomy.modules.items():
            try:
                self.layer_class(module)
            except TypeError:
                continue
            if module is not head:
                yield name

    def _declare_biases(self, adapters: list[str]) -> None:
        model: Any = self.model
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, SsfLayer)]
        added = {f"{name}.bias" for name, layer in layers if layer.adds_bias(adapters)}
        if not added or not isinstance(model, PreTrainedModel):
            return
        config: Any = copy.deepcopy(model.config)
        switches = [k for k, v in config.to_dict().items() if k.endswith("_bias") and v is False]
        before = _biases(type(model), config)
        for key in switches:
            setattr(config, key, True)
        if _biases(type(model), config) - before != added:
            raise ValueError(
                f"{len(added)} layers of {type(model).__name__} have no bias to fold the shift into; "
                "new_biases=false trains none there"
            )
        for key in switches:
            setattr(model.config, key, True)


def _biases(model: type[PreTrainedModel], config: Any) -> set[str]:
    """Return the names of the biases of a model with this configuration."""
    with torch.device("meta"):
        return {n for n, _ in model(config).named_parameters() if n.endswith(".bias")}


register("ssf", SsfConfig, SsfModel)
