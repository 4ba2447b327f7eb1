"""Bottleneck adapters behind the MLPs (Houlsby et al., arXiv 1902.00751; placed as by Pfeiffer et al., 2005.00247)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.utils import PeftType
from torch import Tensor, nn
from torch.nn.functional import linear, relu
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.anatomy import Anatomy


@dataclass
class BottleneckConfig(PeftConfig):
    """y + up(relu(down(y))) for the output y of each adapted layer; identity at the start, as up is 0.

    One adapter a block, behind its MLP, as Pfeiffer et al. found best. Its input is the MLP's output
    alone: the `adapters` library adds the residual stream before it (and, in BERT, the LayerNorm).
    """

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "linear layers that get an adapter behind them; null: the last of each MLP"
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "linear layers to leave out"}
    )
    reduction_factor: float = field(
        default=16, metadata={"help": "width of the layer over that of the bottleneck"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BOTTLENECK  # type: ignore[attr-defined]
        if self.reduction_factor <= 0:
            raise ValueError("reduction_factor must be positive")
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)


class BottleneckLayer(TunerLayer):
    """A linear layer of any storage with a bottleneck behind it; width d, bottleneck d / factor.

    The adapter is not a change of the weight, so it cannot be merged.
    """

    adapter_layer_names = (
        "bottleneck_down", "bottleneck_down_bias", "bottleneck_up", "bottleneck_up_bias",
    )  # fmt: skip

    bottleneck_down: nn.ParameterDict
    bottleneck_down_bias: nn.ParameterDict
    bottleneck_up: nn.ParameterDict
    bottleneck_up_bias: nn.ParameterDict

    def add(self, adapter: str, config: BottleneckConfig) -> None:
        """Create down [d / factor, d], initialised as nn.Linear; up [d, d / factor] and both biases are 0."""
        base: Any = self.get_base_layer()
        wide = base.nf if isinstance(base, Conv1D) else base.out_features
        narrow = max(1, int(wide / config.reduction_factor))
        down = nn.Parameter(torch.empty(narrow, wide))
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.bottleneck_down[adapter] = down
        self.bottleneck_down_bias[adapter] = nn.Parameter(torch.zeros(narrow))
        self.bottleneck_up[adapter] = nn.Parameter(torch.zeros(wide, narrow))
        self.bottleneck_up_bias[adapter] = nn.Parameter(torch.zeros(wide))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map x [.., in] to [.., d]."""
        base: Any = self.base_layer
        out: Tensor = base(x, *args, **kwargs)
        for name in self.adapters_in_effect():
            down = self.bottleneck_down[name]
            narrow = relu(linear(out.to(down.dtype), down, self.bottleneck_down_bias[name]))
            change = linear(narrow, self.bottleneck_up[name], self.bottleneck_up_bias[name])
            out = out + change.to(out.dtype)
        return out


class BottleneckModel(Tuner):
    """Puts bottlenecks behind the closing linear layer of each MLP."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    layers: ClassVar[dict[type, type[TunerLayer]]] = {
        nn.Linear: BottleneckLayer, Conv1D: BottleneckLayer,
    }  # fmt: skip

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Inject as PEFT does; where the configuration names no targets, take the last linear of each MLP."""
        config: Any = self.peft_config[adapter_name]
        if config.target_modules is None:
            config.target_modules = closing_linears(model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)


def closing_linears(model: nn.Module) -> set[str]:
    """Return the names of the last linear layer of each block, which is the last of its MLP."""
    anatomy = Anatomy(model)
    by_block = [anatomy.linears_of(name) for name, _ in anatomy.blocks]
    return {linears[-1].name for linears in by_block if linears}


register("bottleneck", BottleneckConfig, BottleneckModel)
