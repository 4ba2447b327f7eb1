"""SSF (arXiv 2210.08823): a trained scale and shift for each channel, after every operation.

    y = scale * x + shift          x [..., C]: what a linear, convolution or norm puts out

Both fold into the operation itself, W' = diag(scale) W and b' = scale * b + shift, so that the tuned
model has the base's layers and costs nothing more (section 3.2, equations 4 and 6).

A shift exists where its layer has a bias to fold it into, or can be given one (`new_biases`). An
RMSNorm has none and takes none: it is only scaled. Nothing is lost by that before a linear that is
itself scaled and shifted, W (n + s) = W n + W s, whose own shift holds the constant W s.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import PeftType
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.anatomy import Anatomy


@dataclass
class SsfConfig(PeftConfig):
    """Options of SSF.

    Args:
        target_modules: names of layers; null takes every linear, convolution and norm but the head.
        exclude_modules: names of layers that are left out of them.
        modules_to_save: layers that are trained themselves, such as a new classifier.
        init_std: scales begin at N(1, init_std²), shifts at N(0, init_std²); 0 begins as the base.
        new_biases: shift also layers that have no bias; merging gives them one. Without, those are
            only scaled, and the merged model is always of the base's own class.
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
            raise ValueError(f"init_std is a standard deviation, not {self.init_std}")


class SsfLayer(TunerLayer):
    """Scale and shift after a layer; what subclasses say is where its channels are."""

    adapter_layer_names = ("ssf_scale", "ssf_shift")
    weight_axis: ClassVar[int] = 0  # of the base's weight
    ssf_scale: nn.ParameterDict
    ssf_shift: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self._unmerged: tuple[nn.Parameter, nn.Parameter | None] | None = None

    @property
    def axis(self) -> int:
        """Where the channels are in what the layer puts out."""
        return -1

    def add(self, adapter: str, config: SsfConfig) -> None:
        """C scales, and C shifts where the layer has a bias or can get one."""
        base: Any = self.get_base_layer()
        channels = getattr(base, "out_features", None) or base.weight.shape[self.weight_axis]
        self.ssf_scale[adapter] = nn.Parameter(_normal(channels, 1.0, config.init_std))
        if hasattr(base, "bias") and (base.bias is not None or config.new_biases):
            self.ssf_shift[adapter] = nn.Parameter(_normal(channels, 0.0, config.init_std))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own output [..., C, ...], then each active adapter's scale and shift."""
        active = self.active()
        out: Tensor = self.base_layer(x, *args, **kwargs)
        for adapter in active:
            out = self._scaled_and_shifted(out, adapter)
        return out

    def adds_bias(self, adapters: list[str]) -> bool:
        """Whether folding these adapters gives the layer a bias that the base has not."""
        return getattr(self.get_base_layer(), "bias", None) is None and any(
            adapter in self.ssf_shift for adapter in adapters
        )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold scales and shifts into new weights; the base's own are kept for `unmerge`.

        New tensors, so that a weight the layer shares with another one is not changed there.

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
        """Put the base's own tensors back."""
        base: Any = self.get_base_layer()
        if self._unmerged is not None:
            base.weight, bias = self._unmerged
            if hasattr(base, "bias"):
                base.bias = bias
        self._unmerged = None
        self.merged_adapters.clear()

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The weight with which the layer gives `scale` times its output, without its bias."""
        shape = [1] * weight.dim()
        shape[self.weight_axis] = -1
        return weight * scale.view(shape)

    def _scaled_and_shifted(self, out: Tensor, adapter: str) -> Tensor:
        """In the adapter's precision: half precision has no numbers near enough to 1."""
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
        folded = {"weight": self.scaled(weight, scale).to(weight.dtype)}
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
    """Weight [out, in]."""


class SsfConv1D(SsfLayer):
    """GPT-2's linear: weight [in, out]."""

    weight_axis = 1


class SsfConv(SsfLayer):
    """Weight [out, in, kernel...]; puts out [..., C, spatial...]."""

    @property
    def axis(self) -> int:
        """In front of as many dimensions as the kernel has."""
        return 1 - self.weight.dim()


class SsfBatchNorm(SsfLayer):
    """Puts out [B, C, ...]."""

    @property
    def axis(self) -> int:
        """The second."""
        return 1


class SsfNorm(SsfLayer):
    """LayerNorm and RMSNorm, whose factor is the weight, or 1 + weight (Gemma)."""

    @property
    def axis(self) -> int:
        """The last, in images too unless the norm says that their channels come first."""
        return -3 if getattr(self.get_base_layer(), "data_format", "") == "channels_first" else -1

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """scale * (one + w) - one, where the norm multiplies by one + w."""
        one = added_to_weight(self.get_base_layer())
        return scale * (one + weight) - one


class SsfModel(Tuner):
    """Scales and shifts what the layers of a model put out."""

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
        """As for any tuner, and RMSNorms by their structure: every model has a class of its own.

        Raises:
            TypeError: there is none for this layer.
        """
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        weight = getattr(base, "weight", None)
        if weight is None or isinstance(base, NonDynamicallyQuantizableLinear):
            # the latter is nn.MultiheadAttention's, which reads its weight and does not call it
            raise TypeError(f"{type(base).__name__} has no weight of its own to fold a scale into")
        return SsfNorm if is_rms_norm(base) else super().layer_class(target)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """The base model with everything folded in, its configuration told of new biases.

        Raises:
            ValueError: the model's class has no place for the new biases, so that they would be lost
                where the merged model is saved and loaded again.
        """
        self._declare_biases(adapter_names or self.active_adapters)
        merged: nn.Module = super().merge_and_unload(progressbar, safe_merge, adapter_names)
        return merged

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # no list by model family: `_prepare_model` sees the model itself

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        if peft_config.target_modules is None:
            peft_config.target_modules = set(self._foldable(model))

    def _foldable(self, model: nn.Module) -> Iterator[str]:
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


def is_rms_norm(module: nn.Module) -> bool:
    """A norm without children whose only parameter is a vector, and no place for a bias."""
    named = dict(module.named_parameters(recurse=False))
    alone = named.keys() == {"weight"} and named["weight"].dim() == 1
    leaf = next(module.children(), None) is None
    return (
        alone and leaf and "norm" in type(module).__name__.lower() and not hasattr(module, "bias")
    )


def added_to_weight(norm: nn.Module) -> float:
    """What a norm adds to its weight before it multiplies: 0, or 1 as Gemma does.

    Found by calling it with the weight at which a factor would be zero, -0 or -1.

    Raises:
        ValueError: its output is not proportional to either.
    """
    if isinstance(norm, (nn.LayerNorm, *_BATCH_NORMS)):
        return 0.0
    weight: Any = norm.weight
    x = torch.linspace(-1, 2, 2 * len(weight)).view(2, -1).to(weight)
    for one in (0.0, 1.0):
        out = functional_call(norm, {"weight": torch.full_like(weight, -one)}, (x,))
        if not out.any():
            return one
    raise ValueError(f"the output of {type(norm).__name__} is not proportional to its weight")


def _biases(model: type[PreTrainedModel], config: Any) -> set[str]:
    """Names of the biases that a model of this configuration has."""
    with torch.device("meta"):
        return {n for n, _ in model(config).named_parameters() if n.endswith(".bias")}


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _normal(count: int, mean: float, std: float) -> Tensor:
    """Exactly the mean where std is 0."""
    values = torch.full((count,), mean)
    return nn.init.normal_(values, mean, std) if std > 0 else values


register("ssf", SsfConfig, SsfModel)
