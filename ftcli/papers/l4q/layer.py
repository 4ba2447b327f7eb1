"""The PEFT tuner of L4Q: configuration, layer and model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils import PeftType
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.packed_codes import PACKS, group_count, pack
from ftcli.papers.l4q.quantiser import (
    RoundedProduct,
    Start,
    bounds,
    initial_scale,
    round_weight,
    sum_weight,
)


@dataclass
class L4QConfig(PeftConfig):
    """How W0 + (lora_alpha / r) B A is rounded, and in which layers."""

    target_modules: list[str] | str | None = None  # names of linear layers
    exclude_modules: list[str] | str | None = None  # target layers that are left as they are
    modules_to_save: list[str] | None = None  # layers trained whole, such as a new head
    bits: int = 4  # of a weight: 2, 3, 4 or 8
    group_size: int = 128  # weights of a row that share a scale and an offset
    r: int = 4  # rank of B A
    lora_alpha: float = 4  # B A is multiplied by lora_alpha / r
    init: Start = "l4q"  # scales at the start: l4q (nothing is clipped) or lsq (LSQ+: 3 deviations)
    learn_offset: bool = True  # train the offsets; else they stay 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: there is no packing for `bits`, `r` is no rank, or `init` is unknown.
        """
        super().__post_init__()
        self.peft_type = PeftType("L4Q")
        if self.bits not in PACKS:
            raise ValueError(
                f"bits={self.bits} has no packing; choose one of {', '.join(map(str, PACKS))}"
            )
        if self.r < 1:
            raise ValueError(f"r={self.r} is not positive")
        if self.init not in ("l4q", "lsq"):
            raise ValueError(f"init={self.init!r} is unknown; choose l4q or lsq")


class L4QLinear(TunerLayer):
    """A linear layer whose weight is rounded from W0 + alpha B A; W0 stays as it is.

    `l4q_scale` and `l4q_offset` are vectors, float32 [out * groups]: optimizers apply weight decay to
    matrices, and scales must not decay.

    Attributes:
        warming_up: whether training computes x Q(W0)^T + alpha (x A^T) B^T, with frozen scales (the first
            stage of the paper's first version). Evaluation is of the rounded sum in either case.
    """

    adapter_layer_names = ("l4q_A", "l4q_B", "l4q_scale", "l4q_offset")
    l4q_A: nn.ParameterDict
    l4q_B: nn.ParameterDict
    l4q_scale: nn.ParameterDict
    l4q_offset: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.configs: dict[str, L4QConfig] = {}
        self.warming_up = False
        self._original: Tensor | None = None  # W0 while an adapter is merged

    @property
    def base(self) -> Tensor:
        """W0 [out, in]; GPT-2's layers store it transposed."""
        weight: Any = self.get_base_layer().weight
        return weight.T if isinstance(self.get_base_layer(), Conv1D) else weight

    def add(self, adapter: str, config: L4QConfig) -> None:
        """Add an adapter: B = 0, A uniform (Kaiming), scales from W0, offsets 0.

        Raises:
            ValueError: group_size does not divide the rows.
        """
        out, width = self.base.shape
        group_count(width, config.group_size)
        scale = initial_scale(self.base, config.bits, config.group_size, config.init).flatten()
        self.configs[adapter] = config
        start = nn.init.kaiming_uniform_(scale.new_empty(config.r, width), a=math.sqrt(5))
        self.l4q_A[adapter] = nn.Parameter(start)
        self.l4q_B[adapter] = nn.Parameter(scale.new_zeros(out, config.r))
        self.l4q_scale[adapter] = nn.Parameter(scale)
        self.l4q_offset[adapter] = nn.Parameter(torch.zeros_like(scale))

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate an adapter, and freeze its offsets where they are not learned.

        Raises:
            ValueError: more than one is named.
        """
        if not isinstance(adapter_names, str) and len(adapter_names) > 1:
            raise ValueError("a rounded weight belongs to one adapter; L4Q activates one at a time")
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        for name, offset in self.l4q_offset.items():
            if not self.configs[name].learn_offset:
                offset.requires_grad_(False)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Move to the device alone: scales that were rounded to 16 bits would clip the largest weights."""
        target = self.base.device if device is None else device
        for name in self.adapter_layer_names:
            values = getattr(self, name)
            if adapter_name in values and values[adapter_name].device.type != "meta":
                values[adapter_name].data = values[adapter_name].data.to(target)

    def parts(self, adapter: str) -> tuple[Tensor, Tensor, Tensor, Tensor, float, int]:
        """Return A, B, scales and offsets [out, groups], alpha and bits."""
        config = self.configs[adapter]
        a, b = self.l4q_A[adapter], self.l4q_B[adapter]
        scale, offset = (v[adapter].view(len(b), -1) for v in (self.l4q_scale, self.l4q_offset))
        return a, b, scale, offset, config.lora_alpha / config.r, config.bits

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map [.., in] to [.., out] with the rounded weight."""
        active = self.adapters_in_effect()
        if not active:
            return self.base_layer(x)
        a, b, scale, offset, alpha, bits = self.parts(active[0])
        if self.warming_up and self.training:
            frozen = (torch.zeros_like(a), torch.zeros_like(b), scale.detach(), offset.detach())
            out = RoundedProduct.apply(x, self.base, *frozen, alpha, bits)
            low_rank = nn.functional.linear(nn.functional.linear(x.to(a.dtype), a), b)
            out = out + (alpha * low_rank).to(out.dtype)
        else:
            out = RoundedProduct.apply(x, self.base, a, b, scale, offset, alpha, bits)
        bias: Any = self.get_base_layer().bias
        return out if bias is None else out + bias.to(out.dtype)

    @torch.no_grad()
    def rounded(self, adapter: str) -> Any:
        """Return the rounded weight of an adapter as `quantiser.Rounded`."""
        if self._original is not None:
            raise ValueError("the adapter is merged; unmerge it first")
        a, b, scale, offset, alpha, bits = self.parts(adapter)
        return round_weight(sum_weight(self.base, a, b, alpha), scale, offset, bits)

    def export(self, adapter: str) -> dict[str, Tensor]:
        """Return what the trained layer consists of, without W0, A and B.

        codes: uint8 [out, packed width], q - QN; scale, offset: float32 [out, groups]; bias, if any.
        """
        rounded, bits = self.rounded(adapter), self.configs[adapter].bits
        codes = (rounded.integers - bounds(bits)[0]).to(torch.uint8).flatten(1)
        tensors = {"codes": pack(codes, bits), "scale": rounded.scale.squeeze(-1)}
        tensors["offset"] = rounded.offset.squeeze(-1)
        bias: Any = self.get_base_layer().bias
        return tensors if bias is None else tensors | {"bias": bias.detach()}

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the rounded weight in the place of W0, which is kept until `unmerge`.

        Raises:
            ValueError: more than one adapter is to be merged, or the weight is not finite (safe_merge).
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.l4q_A:
                continue
            base: Any = self.get_base_layer()
            weight, kept = self.rounded(adapter).weight, base.weight.detach()
            if safe_merge and not torch.isfinite(weight).all():
                raise ValueError(f"merging {adapter} gives values that are not finite")
            self._set_weight(weight)
            self._original = kept
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Put W0 back."""
        if self._original is not None:
            self.get_base_layer().weight.data = self._original
        self._original, self.merged_adapters = None, []

    def _set_weight(self, weight: Tensor) -> None:
        layer: Any = self.get_base_layer()
        shaped = weight.T.contiguous() if isinstance(layer, Conv1D) else weight
        layer.weight.data = shaped.to(layer.weight.dtype)


class L4QModel(Tuner):
    """Puts `L4QLinear` around linear layers with plain weights, and around GPT-2's Conv1D."""

    prefix, tuner_layer_cls = "l4q_", L4QLinear
    layers = {nn.Linear: L4QLinear, Conv1D: L4QLinear}  # noqa: RUF012


register("l4q", L4QConfig, L4QModel)
