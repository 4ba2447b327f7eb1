"""FLoRA (arXiv 2405.14739): the update of an N-dimensional weight as a Tucker product of low rank.

    dW = s * G x_1 U_1 x_2 U_2 ... x_N U_N       G [r_1, ..., r_N], U_i [d_i, r_i]

A convolution's kernel keeps its modes and is not flattened; the update of a linear layer is U_out G U_inᵀ.
The core G is initially zero, and so is the update; the factors are random (section 3.2).

This is neither the federated FLoRA nor the FLORA optimizer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.utils import PeftType
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from torch.nn.functional import dropout
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register

#: Modes in the paper's order, in which `ranks` are given; the last mode of a kernel is its width.
ORDER = ("in", "out", "depth", "height", "width")


@dataclass
class FloraConfig(PeftConfig):
    """Options of FLoRA.

    Args:
        target_modules: names of linear and convolution layers.
        exclude_modules: names of target layers that are left out.
        modules_to_save: layers that are trained themselves, such as a new classifier.
        r: rank of the in and out modes, at most their size (1 for depthwise convolutions).
        kernel_r: rank of each mode of a kernel, at most its size.
        ranks: one rank a mode instead of r and kernel_r: in, out, then the kernel's.
        rank_pattern: name of layers -> their `ranks`.
        scale: s, a constant factor of the update, 0.04 to 4 by backbone; not divided by a rank.
        dropout: dropout of the update's input in training.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    r: int = 8
    kernel_r: int = 2
    ranks: list[int] | None = None
    rank_pattern: dict[str, list[int]] = field(default_factory=dict)
    scale: float = 0.4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("FLORA")
        ranks = [self.r, self.kernel_r, *(self.ranks or ())]
        if min(ranks + [rank for pattern in self.rank_pattern.values() for rank in pattern]) < 1:
            raise ValueError("ranks are positive integers")


class FloraLayer(TunerLayer):
    """The update of a layer whose weight has the modes `modes`, in the order of its dimensions."""

    modes: ClassVar[tuple[str, ...]] = ()
    other_param_names = ("flora_scale", "flora_dropout")
    flora_G: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.flora_scale: dict[str, float] = {}
        self.flora_dropout: dict[str, float] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the weight's modes."""
        return tuple(self.weight.shape)

    def add(self, adapter: str, config: FloraConfig) -> None:
        """Add a core of zeros and Kaiming-normal factors (a = sqrt(3)).

        Raises:
            ValueError: a rank is larger than its mode, or `ranks` does not have one for each mode.
        """
        ranks = self._ranks(config)
        self.flora_G[adapter] = nn.Parameter(torch.zeros(ranks))
        for mode, size, rank in zip(self.modes, self.sizes, ranks, strict=True):
            factor = nn.init.kaiming_normal_(torch.empty(size, rank), a=math.sqrt(3))
            self._factors(mode)[adapter] = nn.Parameter(factor)
        self.flora_scale[adapter], self.flora_dropout[adapter] = config.scale, config.dropout

    def delta(self, adapter: str) -> Tensor:
        """Return the Tucker product, of the shape of the weight."""
        product: Tensor = self.flora_G[adapter]
        for mode in self.modes:  # contracts the first mode and appends its full size, N times
            product = torch.tensordot(product, self._factors(mode)[adapter], dims=([0], [1]))
        return self.flora_scale[adapter] * product

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output plus that of each active update on the input after dropout."""
        active = self.adapters_in_effect()
        out: Tensor = self.base_layer(x, *args, **kwargs)
        for adapter in active:
            dropped = dropout(x, self.flora_dropout[adapter], self.training)
            dropped = self._cast_input_dtype(dropped, self.flora_G[adapter].dtype)
            out = out + self.update(dropped, adapter).to(out.dtype)
        return out

    @abstractmethod
    def update(self, x: Tensor, adapter: str) -> Tensor:
        """Return what the change of the weight adds to the output."""

    def _factors(self, mode: str) -> nn.ParameterDict:
        factors: nn.ParameterDict = getattr(self, f"flora_U_{mode}")
        return factors

    def _ranks(self, config: FloraConfig) -> tuple[int, ...]:
        """Return one rank for each mode, in the order of the weight's dimensions."""
        sizes = dict(zip(self.modes, self.sizes, strict=True))
        order = [mode for mode in ORDER if mode in sizes]
        if config.ranks is None:
            wanted = {m: config.r if m in ("in", "out") else config.kernel_r for m in order}
            return tuple(min(wanted[mode], sizes[mode]) for mode in self.modes)
        layer = type(self.get_base_layer()).__name__
        if len(config.ranks) != len(order):
            raise ValueError(f"a {layer} takes {len(order)} ranks ({', '.join(order)})")
        chosen = dict(zip(order, config.ranks, strict=True))
        for mode, size in sizes.items():
            if chosen[mode] > size:
                raise ValueError(
                    f"rank {chosen[mode]} is above the {mode} mode's {size} in a {layer}"
                )
        return tuple(chosen[mode] for mode in self.modes)


def _names(modes: tuple[str, ...]) -> tuple[str, ...]:
    return ("flora_G", *(f"flora_U_{mode}" for mode in modes))


class FloraLinear(FloraLayer):
    """Weight [out, in]; the update is never formed in the forward pass."""

    modes = ("out", "in")
    adapter_layer_names = _names(modes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """(out, in), also of packed weights."""
        base: Any = self.get_base_layer()
        return base.out_features, base.in_features

    def update(self, x: Tensor, adapter: str) -> Tensor:
        """Return s * ((x U_in) Gᵀ) U_outᵀ."""
        inner = x @ self._factors("in")[adapter] @ self.flora_G[adapter].T
        return self.flora_scale[adapter] * (inner @ self._factors("out")[adapter].T)


class FloraConv1D(FloraLayer):
    """GPT-2's linear: weight [in, out]."""

    modes = ("in", "out")
    adapter_layer_names = _names(modes)

    def update(self, x: Tensor, adapter: str) -> Tensor:
        """Return s * ((x U_in) G) U_outᵀ."""
        inner = x @ self._factors("in")[adapter] @ self.flora_G[adapter]
        return self.flora_scale[adapter] * (inner @ self._factors("out")[adapter].T)


class FloraConv(FloraLayer):
    """Weight [out, in / groups, kernel...]."""

    def update(self, x: Tensor, adapter: str) -> Tensor:
        """Return a second convolution with the base's stride, padding, dilation and groups, without bias."""
        base: Any = self.get_base_layer()
        out: Tensor = base._conv_forward(x, self.delta(adapter), None)
        return out


class FloraConv1d(FloraConv):
    """A kernel of one mode."""

    modes = ("out", "in", "width")
    adapter_layer_names = _names(modes)


class FloraConv2d(FloraConv):
    """A kernel of two modes."""

    modes = ("out", "in", "height", "width")
    adapter_layer_names = _names(modes)


class FloraConv3d(FloraConv):
    """A kernel of three modes."""

    modes = ("out", "in", "depth", "height", "width")
    adapter_layer_names = _names(modes)


class FloraModel(Tuner):
    """Adds Tucker products to linear and convolution layers."""

    prefix = "flora_"
    tuner_layer_cls = FloraLayer
    layers: ClassVar[dict[type, type[TunerLayer]]] = {
        nn.Linear: FloraLinear,
        Conv1D: FloraConv1D,
        nn.Conv1d: FloraConv1d,
        nn.Conv2d: FloraConv2d,
        nn.Conv3d: FloraConv3d,
    }

    def add_adapter_to_layer(self, layer: TunerLayer, adapter: str, config: Any, name: str) -> None:
        """Add an adapter with the ranks that `rank_pattern` gives this layer."""
        layer_config = copy(config)
        pattern = get_pattern_key(config.rank_pattern.keys(), name)
        layer_config.ranks = config.rank_pattern.get(pattern, config.ranks)
        super().add_adapter_to_layer(layer, adapter, layer_config, name)


register("flora", FloraConfig, FloraModel)
