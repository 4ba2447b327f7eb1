"""The PEFT tuner of LQ-LoRA: a packed NormalFloat matrix in the place of the weight, and LoRA beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from peft.utils import PeftType
from torch import Tensor, nn
from torch.autograd.function import Function
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, register
from ftcli.methods.tuners.freed import FreedWeightLayer
from ftcli.models.mixed_precision import disable_autocast, get_product_dtype
from ftcli.papers.lq_lora.decomposition import Decomposition
from ftcli.papers.lq_lora.normal_float import PackedNormalFloat


@dataclass
class LqLoraConfig(PeftConfig):
    """Rank and scale of the low-rank part, and the layers that are decomposed."""

    target_modules: list[str] | str | None = None  # names of linear layers
    exclude_modules: list[str] | str | None = None  # target layers that are left as they are
    modules_to_save: list[str] | None = None  # layers trained whole, such as a new head
    r: int = 64  # rank of B A
    lora_alpha: float = 16  # B A is multiplied by lora_alpha / r

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: `r` is no rank.
        """
        super().__post_init__()
        self.peft_type = PeftType("LQLORA")
        if self.r < 1:
            raise ValueError(f"r={self.r} is not positive")


class PackedProduct(Function):
    """y = x Q^T; nothing is kept for backward but the packed matrix itself, which is unpacked again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedNormalFloat) -> Tensor:
        """Map x [.., in] to [.., out]."""
        ctx.packed, dtype = packed, get_product_dtype(x)
        with disable_autocast(x):
            return nn.functional.linear(x.to(dtype), packed.weight().to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        """Return dL/dx."""
        if not ctx.needs_input_grad[0]:
            return None, None
        with disable_autocast(grads[0]):
            return grads[0] @ ctx.packed.weight().to(grads[0].dtype), None


class LqLoraLinear(FreedWeightLayer):
    """x Q^T + (lora_alpha / r) (x A^T) B^T, with Q packed; before the decomposition, W in the place of Q.

    Q is part of the adapter's state: it is saved and loaded with A and B, because without the data that
    weighed the decomposition it cannot be computed again. Once there is a Q, W is freed.
    """

    adapter_layer_names = ("lqlora_A", "lqlora_B")
    other_param_names = ("lqlora_Q",)
    lqlora_A: nn.ParameterDict
    lqlora_B: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.lqlora_Q = nn.ModuleDict()
        self.scaling: dict[str, float] = {}

    def add(self, adapter: str, config: LqLoraConfig) -> None:
        """Add an adapter as LoRA starts, without a Q of its own."""
        base: Any = self.get_base_layer()
        out, width = self.shape
        like = {"dtype": torch.float32, "device": base.weight.device}
        start = nn.init.kaiming_uniform_(torch.empty(config.r, width, **like), a=math.sqrt(5))
        self.lqlora_A[adapter] = nn.Parameter(start)
        self.lqlora_B[adapter] = nn.Parameter(torch.zeros(out, config.r, **like))
        self.lqlora_Q[adapter] = PackedNormalFloat(base.weight.device)
        self.scaling[adapter] = config.lora_alpha / config.r

    def packed(self, adapter: str | None = None) -> PackedNormalFloat | None:
        """Return Q of an adapter, or of the first that has one; None where no layer is decomposed."""
        names = list(self.lqlora_Q) if adapter is None else [adapter]
        found: list[Any] = [self.lqlora_Q[name] for name in names]
        return next((q for q in found if not q.is_empty), None)

    @torch.no_grad()
    def store(self, adapter: str, parts: Decomposition, start_at_product: bool = True) -> None:
        """Take over a decomposition: Q = its matrix, A = L2 / sqrt(scale), B = L1 / sqrt(scale); free W.

        Args:
            start_at_product: False leaves A and B as LoRA starts (B = 0), for quantisation alone.
        """
        matrix: Any = self.lqlora_Q[adapter]
        matrix.store(parts.quantised)
        if start_at_product:
            root = math.sqrt(self.scaling[adapter])
            self.lqlora_A[adapter].copy_(parts.right / root)
            self.lqlora_B[adapter].copy_(parts.left / root)
        self.release_weight()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map [.., in] to [.., out].

        Raises:
            ValueError: more than one adapter is active, or one without Q on a layer whose W was freed.
        """
        active = self.adapters_in_effect()
        if len(active) > 1:
            raise ValueError(
                "each adapter has a quantised weight of its own; activate one at a time"
            )
        packed = self.packed(active[0]) if active else None if self.merged else self.packed()
        if packed is None and self.is_freed:
            raise ValueError(
                f"{active[0]} has no quantised weight, and the base's was freed for another's"
            )
        if packed is None:
            out = self.base_layer(x)
        else:
            out = self.add_bias(PackedProduct.apply(x, packed))
        for name in active:
            a, b = self.lqlora_A[name], self.lqlora_B[name]
            low = nn.functional.linear(self._cast_input_dtype(x, a.dtype), a)
            out = out + (self.scaling[name] * nn.functional.linear(low, b)).to(out.dtype)
        return out

    @torch.no_grad()
    def compute_weight(self, adapter: str) -> Tensor:
        """Return Q + (lora_alpha / r) B A, float32 [out, in]; W in the place of Q before the decomposition."""
        packed = self.packed(adapter)
        start = self.dense.float() if packed is None else packed.weight()
        product = self.lqlora_B[adapter].float() @ self.lqlora_A[adapter].float()
        return start + self.scaling[adapter] * product

    def compute_base_weight(self) -> Tensor | None:
        """Return Q, which is what remains of W without the low-rank part; None before the decomposition."""
        packed = self.packed()
        return None if packed is None else packed.weight()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Free W where a matrix comes with the state; the matrix itself is loaded as a part of this layer."""
        saved = [state_dict.get(f"{prefix}lqlora_Q.{name}.codes") for name in self.lqlora_Q]
        if any(codes is not None and codes.numel() for codes in saved) and self.packed() is None:
            self.release_weight()
        super()._load_from_state_dict(state_dict, prefix, *args)


class LqLoraModel(Tuner):
    """Puts `LqLoraLinear` around linear layers with plain weights, and around GPT-2's Conv1D."""

    prefix, tuner_layer_cls = "lqlora_", LqLoraLinear
    layers = {nn.Linear: LqLoraLinear, Conv1D: LqLoraLinear}  # noqa: RUF012


register("lqlora", LqLoraConfig, LqLoraModel)
