"""The layers of SSF: the channel axis of each kind of operation, and how scale and shift fold into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.func import functional_call

from ftcli.methods.tuners.base import TunerLayer

if TYPE_CHECKING:
    from ftcli.papers.ssf.method import SsfConfig


class SsfLayer(TunerLayer):
    """Scale and shift after a layer; subclasses define the axis of its channels."""

    adapter_layer_names = ("ssf_scale", "ssf_shift")
    weight_axis: ClassVar[int] = 0  # of the base's weight
    ssf_scale: nn.ParameterDict
    ssf_shift: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self._unmerged: tuple[nn.Parameter, nn.Parameter | None] | None = None

    @property
    def axis(self) -> int:
        """Axis of the channels in the layer's output."""
        return -1

    def add(self, adapter: str, config: SsfConfig) -> None:
        """Add C scales, and C shifts where the layer has a bias or can get one."""
        base: Any = self.get_base_layer()
        channels = getattr(base, "out_features", None) or base.weight.shape[self.weight_axis]
        self.ssf_scale[adapter] = nn.Parameter(_draw_normal(channels, 1.0, config.init_std))
        if hasattr(base, "bias") and (base.bias is not None or config.new_biases):
            self.ssf_shift[adapter] = nn.Parameter(_draw_normal(channels, 0.0, config.init_std))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output [..., C, ...] after each active adapter's scale and shift."""
        active = self.adapters_in_effect()
        out: Tensor = self.base_layer(x, *args, **kwargs)
        for adapter in active:
            out = self._scale_and_shift(out, adapter)
        return out

    def adds_bias(self, adapters: list[str]) -> bool:
        """Whether folding these adapters adds a bias that the base does not have."""
        return getattr(self.get_base_layer(), "bias", None) is None and any(
            adapter in self.ssf_shift for adapter in adapters
        )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold scales and shifts into new weights; the base's weights are kept for `unmerge`.

        New tensors are created, so that a weight shared with another layer is not changed there.

        Raises:
            ValueError: the weights are quantised, or what is folded is not finite (safe_merge).
        """
        if self.quantization_backend is not None:
            raise ValueError("a scale cannot be folded into quantised weights without rounding")
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.ssf_scale:
                self._fold(adapter, safe_merge)
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Restore the base's tensors."""
        base: Any = self.get_base_layer()
        if self._unmerged is not None:
            base.weight, bias = self._unmerged
            if hasattr(base, "bias"):
                base.bias = bias
        self._unmerged = None
        self.merged_adapters.clear()

    def scale_weight(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the weight with which the layer's output without bias is multiplied by `scale`."""
        shape = [1] * weight.dim()
        shape[self.weight_axis] = -1
        return weight * scale.view(shape)

    def _scale_and_shift(self, out: Tensor, adapter: str) -> Tensor:
        """Scale and shift in the adapter's precision, because half precision is too coarse near 1."""
        shape = [1] * out.dim()
        shape[self.axis] = -1
        result = out * self.ssf_scale[adapter].view(shape)
        if adapter in self.ssf_shift:
            result = result + self.ssf_shift[adapter].view(shape)
        return result.to(out.dtype)

    @torch.no_grad()
    def _fold(self, adapter: str, safe: bool) -> None:
        base: Any = self.get_base_layer()
        weight, bias, scale = base.weight, getattr(base, "bias", None), self.ssf_scale[adapter]
        folded = {"weight": self.scale_weight(weight, scale).to(weight.dtype)}
        if adapter in self.ssf_shift:
            shift = self.ssf_shift[adapter]
            moved = shift if bias is None else bias * scale + shift
            folded["bias"] = moved.to(weight.dtype, copy=True)
        if safe and not all(torch.isfinite(tensor).all() for tensor in folded.values()):
            raise ValueError(f"merging {adapter} gives values that are not finite")
        self._unmerged = self._unmerged or (weight, bias)
        for name, tensor in folded.items():
            setattr(base, name, nn.Parameter(tensor, requires_grad=False))


class SsfLinear(SsfLayer):
    """Linear layer with weight [out, in]."""


class SsfConv1D(SsfLayer):
    """GPT-2's linear: weight [in, out]."""

    weight_axis = 1


class SsfConv(SsfLayer):
    """Convolution with weight [out, in, kernel...] and output [..., C, spatial...]."""

    @property
    def axis(self) -> int:
        """The axis before the spatial dimensions, of which the kernel has as many."""
        return 1 - self.weight.dim()


class SsfBatchNorm(SsfLayer):
    """BatchNorm with output [B, C, ...]."""

    @property
    def axis(self) -> int:
        """The second axis."""
        return 1


class SsfNorm(SsfLayer):
    """LayerNorm and RMSNorm, which multiply by the weight, or by 1 + weight (Gemma)."""

    @property
    def axis(self) -> int:
        """The last axis, or -3 where the norm has data_format=channels_first."""
        return -3 if getattr(self.get_base_layer(), "data_format", "") == "channels_first" else -1

    def scale_weight(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return scale * (o + w) - o, where the norm multiplies by o + w."""
        offset = weight_offset(self.get_base_layer())
        return scale * (offset + weight) - offset


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is a norm without children and bias whose only parameter is a weight vector."""
    named = dict(module.named_parameters(recurse=False))
    alone = named.keys() == {"weight"} and named["weight"].dim() == 1
    leaf = next(module.children(), None) is None
    return (
        alone and leaf and "norm" in type(module).__name__.lower() and not hasattr(module, "bias")
    )


def weight_offset(norm: nn.Module) -> float:
    """Return what a norm adds to its weight before multiplying: 0, or 1 (Gemma).

    It is found by calling the norm with weights -0 and -1: the factor, and so the output, is zero for one.

    Raises:
        ValueError: the output is zero for neither.
    """
    if isinstance(norm, (nn.LayerNorm, *_BATCH_NORMS)):
        return 0.0
    weight: Any = norm.weight
    x = torch.linspace(-1, 2, 2 * len(weight)).view(2, -1).to(weight)
    for offset in (0.0, 1.0):
        out = functional_call(norm, {"weight": torch.full_like(weight, -offset)}, (x,))
        if not out.any():
            return offset
    raise ValueError(f"the output of {type(norm).__name__} is not proportional to its weight")


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _draw_normal(count: int, mean: float, std: float) -> Tensor:
    """Return normal values [count]; exactly the mean where std is 0."""
    values = torch.full((count,), mean)
    return nn.init.normal_(values, mean, std) if std > 0 else values
