"""PEQA (arXiv 2305.14152): weights become frozen integers, and only their scales are trained.

The weight is (s0 + ds) * wbar: integers wbar and scales s0 come from rounding the base to the
nearest once (equation 1); ds starts at 0 and is all that is trained and saved (equation 2). The
integers are computed again from the base whenever an adapter is loaded. Several adapters share them, so
that switching the task switches only the scales.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.utils import PeftType
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.base import quantisation_of, suggest_plain_weights
from ftcli.methods.peft import Peft
from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.packed_codes import PACKS, group_count
from ftcli.papers.peqa.packed import Search, apply_scale
from ftcli.papers.peqa.packed_linear import PackedLinear

_log = logging.getLogger("ftcli.methods")


@dataclass
class PeqaConfig(PeftConfig):
    """How the base is rounded to integers, and in which layers."""

    target_modules: list[str] | str | None = field(default=None)  # layers that become integers
    exclude_modules: list[str] | str | None = field(
        default=None
    )  # target layers that are left as they are
    bits: int = 4  # of a weight: 2, 3, 4 or 8
    group_size: int | None = None  # weights of a row that share a scale; null: the whole row
    search: Search = "mse"  # range of the grid: mse (least squared error) or minmax

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: there is no packing for `bits`, or `search` is unknown.
        """
        super().__post_init__()
        self.peft_type = PeftType("PEQA")
        if self.bits not in PACKS:
            raise ValueError(
                f"bits={self.bits} has no packing; choose one of {', '.join(map(str, PACKS))}"
            )
        if self.search not in ("minmax", "mse"):
            raise ValueError(f"search={self.search!r} is unknown; choose minmax or mse")


class PeqaLinear(TunerLayer):
    """A packed linear layer with a trained change ds of its scales for each adapter.

    `peqa_scale` is a vector, float32 [out * groups]: optimizers apply weight decay to matrices, and scales
    must not decay. It is float32 because small updates would vanish in half precision.
    """

    adapter_layer_names = ("peqa_scale",)
    base_layer: PackedLinear
    peqa_scale: nn.ParameterDict

    def add(self, adapter: str, config: PeqaConfig) -> None:
        """Add an adapter with ds = 0.

        Raises:
            ValueError: its bits or group_size differ from those of the integers that are there.
        """
        groups = group_count(self.base_layer.in_features, config.group_size)
        if config.bits != self.base_layer.bits or groups != self.base_layer.scale.shape[1]:
            raise ValueError(
                "a further adapter shares the integers of the first: bits and group_size must be equal"
            )
        self.peqa_scale[adapter] = nn.Parameter(torch.zeros_like(self.base_layer.scale).flatten())

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map [.., in] to [.., out] with scales s0 + ds."""
        shifts = [self.peqa_scale[name] for name in self.adapters_in_effect()]
        if not shifts:
            return self.base_layer(x)
        return self.base_layer(x, sum(shifts[1:], shifts[0]).view_as(self.base_layer.scale))

    def delta(self, adapter: str) -> Tensor:
        """Return ds * wbar, in the weight layout of the layer that was replaced."""
        shift = self.peqa_scale[adapter].view_as(self.base_layer.scale)
        change = apply_scale(self.base_layer.integers(shift.dtype), shift)
        return change.T if self.base_layer.transposed else change

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return a plain layer with the trained weight (merge), or the packed layer with scales s0."""
        if not merge:
            self.unmerge()
            return self.base_layer
        self.merge(safe_merge, adapter_names)
        return self.base_layer.to_plain()

    def _add_to_weight(self, adapter: str, sign: float, safe: bool) -> None:
        shift = self.peqa_scale[adapter].detach().view_as(self.base_layer.scale)
        if safe and not torch.isfinite(shift).all():
            raise ValueError(f"merging {adapter} gives values that are not finite")
        self.base_layer.scale.data.add_(sign * shift)


class PeqaModel(Tuner):
    """Replaces linear layers (and GPT-2's Conv1D) by packed ones with trained scales."""

    prefix = "peqa_"
    tuner_layer_cls = PeqaLinear

    def wrap_layer(self, target: nn.Module, config: Any) -> TunerLayer:
        """Pack a layer and return the tuner layer around it.

        The original weight is freed here, because PEFT holds the layers until all are replaced.
        """
        packed = self._pack(target, config)
        target.register_parameter("weight", None)
        return PeqaLinear(packed)

    def _pack(self, linear: Any, config: PeqaConfig) -> PackedLinear:
        weight = getattr(linear, "weight", None)
        shaped = hasattr(linear, "nf") or isinstance(linear, nn.Linear)
        if not shaped or weight is None or not weight.dtype.is_floating_point:
            raise TypeError(
                f"{type(linear).__name__} is not a linear layer with floating-point weights"
            )
        return PackedLinear(linear, config.bits, config.group_size, config.search)

    def _replace_module(self, parent: Any, child_name: str, new_module: Any, child: Any) -> None:
        """Replace a child as PEFT does; a plain layer is set as it is, since PEFT would give it packed bytes."""
        if isinstance(new_module, TunerLayer):
            super()._replace_module(parent, child_name, new_module, child)
        else:
            setattr(parent, child_name, new_module)


class Peqa(Peft):
    """Round the base to integers and train their scales; further keys are PeqaConfig's.

    Merging gives a plain model that computes the same: its weights are the scaled integers in the dtype
    of the base, so it is as large as the base. To keep the small size, keep the adapter.

    Args:
        config_class: PeqaConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: has no effect; scales are always float32.
    """

    quantisable: ClassVar[bool] = False
    formula = "sum(out * in / group_size) over the targets; out a target without groups"

    def __init__(
        self,
        config_class: ClassPath = "ftcli.papers.peqa.method.PeqaConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)

    @property
    def keeps_base(self) -> bool:
        """False: with the adapter off the model is the rounded base."""
        return False

    def prepare(self, model: Any) -> nn.Module:
        """Round the targets to integers and freeze all but their scales.

        Raises:
            UserError: the base is quantised already, or an option does not fit it.
        """
        if quantisation_of(model) is not None:
            raise UserError(
                "PEQA rounds floating-point weights to its own integers, and this base is quantised already.",
                where="model.quantization",
                fix=suggest_plain_weights(model),
            )
        return super().prepare(model)

    def merge(self, model: Any) -> nn.Module:
        """Return a plain model whose weights are the scaled integers, and warn about its size.

        Raises:
            UserError: the scales are not finite.
        """
        _log.warning(
            "PEQA was merged: the weights are its scaled integers stored in the base's dtype, so the model "
            "is as large as the base; keep the adapter for the small size"
        )
        return super().merge(model)


register("peqa", PeqaConfig, PeqaModel)
