"""The PEFT tuner of SketchTune: packed codes and values of each row, whose change is trained."""

from __future__ import annotations

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
from ftcli.models.packed_codes import PACKS, pack, packed_width, unpack
from ftcli.papers.sketchtune.sketch import Sketch, look_up, sum_by_code


@dataclass
class SketchConfig(PeftConfig):
    """How fine the sketch of a weight is, and which weights have one."""

    target_modules: list[str] | str | None = None  # names of linear layers
    exclude_modules: list[str] | str | None = None  # target layers that are left as they are
    modules_to_save: list[str] | None = None  # layers trained whole, such as a new head
    bits: int = 4  # of a code: 2, 3, 4 or 8; a row has 2^bits values
    groups_per_row: int = 1  # parts of a row with values of their own

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: there is no packing for `bits`, or `groups_per_row` is not positive.
        """
        super().__post_init__()
        self.peft_type = PeftType("SKETCH")
        if self.bits not in PACKS:
            raise ValueError(
                f"bits={self.bits} has no packing; choose one of {', '.join(map(str, PACKS))}"
            )
        if self.groups_per_row < 1:
            raise ValueError(f"groups_per_row={self.groups_per_row} is not positive")


class PackedSketch(nn.Module):
    """A sketch as it is stored; training leaves it as it is.

    Attributes:
        codes: uint8 [out, packed width].
        start: values before training, [out, groups, 2^bits] in the dtype of the weight.
    """

    def __init__(self, shape: tuple[int, int], config: SketchConfig, like: Tensor) -> None:
        super().__init__()
        rows, self.width = shape
        self.bits = config.bits
        codes = like.new_zeros(rows, packed_width(self.width, self.bits), dtype=torch.uint8)
        start = like.new_zeros(rows, config.groups_per_row, 2**self.bits)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.start = nn.Parameter(start, requires_grad=False)

    def store(self, sketch: Sketch) -> None:
        """Take a sketch over."""
        self.codes.copy_(pack(sketch.codes, self.bits))
        self.start.copy_(sketch.values)

    def unpack(self) -> Tensor:
        """Return the codes, uint8 [out, in]."""
        return unpack(self.codes, self.bits, self.width)


class SketchedProduct(Function):
    """y = x W^T with W looked up from values and codes; backward keeps x, and looks W up again.

    The gradient G = gy^T x of W is formed for one layer, summed over the weights of each value, and dropped.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, packed: PackedSketch) -> Tensor:
        """Map x [.., in] to [.., out]; values are float32 [out, groups, 2^bits]."""
        ctx.save_for_backward(x, values)
        ctx.packed, dtype = packed, get_product_dtype(x)
        with disable_autocast(x):
            weight = look_up(values.to(dtype), packed.unpack())
            return nn.functional.linear(x.to(dtype), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of x and of the values."""
        (grad,), (x, values) = grads, ctx.saved_tensors
        codes, to_x, to_values = ctx.packed.unpack(), None, None
        with disable_autocast(x):
            if ctx.needs_input_grad[0]:
                to_x = (grad @ look_up(values.to(grad.dtype), codes)).to(x.dtype)
            if ctx.needs_input_grad[1]:
                dense = grad.flatten(0, -2).T @ x.to(grad.dtype).flatten(0, -2)
                to_values = sum_by_code(dense, codes, values)
        return to_x, to_values, None


class SketchLinear(FreedWeightLayer):
    """A linear layer on a sketch of its weight; before there is one, on the weight itself.

    What is trained is the change of the values, `sketch_shift`: float32 [out * groups * 2^bits], 0 at the
    start. It is a vector because optimizers apply weight decay to matrices, and decay would pull values to
    those of the untrained sketch (in the published code to 0). Codes and first values are part of the
    adapter's state, because without the data that weighed them they cannot be computed again.
    """

    adapter_layer_names = ("sketch_shift",)
    other_param_names = ("sketch_codes",)
    sketch_shift: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.sketch_codes = nn.ModuleDict()
        self.sketched: set[str] = set()  # adapters that have a sketch

    def add(self, adapter: str, config: SketchConfig) -> None:
        """Add an adapter that has no sketch yet.

        Raises:
            ValueError: groups_per_row does not divide the rows.
        """
        if self.shape[1] % config.groups_per_row:
            raise ValueError(
                f"groups_per_row={config.groups_per_row} does not divide rows of {self.shape[1]} weights"
            )
        base: Any = self.get_base_layer()
        like = torch.empty(0, dtype=self.weight_dtype, device=base.weight.device)
        packed = PackedSketch(self.shape, config, like)
        self.sketch_codes[adapter] = packed
        self.sketch_shift[adapter] = nn.Parameter(torch.zeros_like(packed.start).float().flatten())

    @torch.no_grad()
    def store(self, adapter: str, sketch: Sketch) -> None:
        """Take a sketch over, and free the weight."""
        self.packed(adapter).store(sketch)
        self.mark_sketched(adapter)

    def mark_sketched(self, adapter: str) -> None:
        """Compute with the adapter's sketch from now on; free the weight."""
        self.sketched.add(adapter)
        if not self.is_freed:
            self.release_weight()

    def packed(self, adapter: str) -> PackedSketch:
        """Return codes and first values of an adapter."""
        packed = self.sketch_codes[adapter]
        assert isinstance(packed, PackedSketch)
        return packed

    def values(self, adapter: str, trained: bool = True) -> Tensor:
        """Return the values of an adapter, trained or before training, float32 [out, groups, 2^bits]."""
        start = self.packed(adapter).start.float()
        return start + self.sketch_shift[adapter].view_as(start) if trained else start

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map [.., in] to [.., out]; with the adapter switched off, on the sketch before training.

        Raises:
            ValueError: more than one adapter is active, or one without a sketch on a layer that was freed.
        """
        active = self.adapters_in_effect()
        if len(active) > 1:
            raise ValueError("each adapter has a sketch of its own; activate one at a time")
        if self.merged or not self.sketched:
            return self.base_layer(x)
        name = active[0] if active else min(self.sketched)
        if name not in self.sketched:
            raise ValueError(f"{name} has no sketch, and the base's weight was freed for another's")
        values = self.values(name, trained=bool(active))
        return self.add_bias(SketchedProduct.apply(x, values, self.packed(name)))

    @torch.no_grad()
    def compute_weight(self, adapter: str) -> Tensor:
        """Return the trained weight, float32 [out, in]; W where there is no sketch yet."""
        if adapter not in self.sketched:
            return self.dense.float()
        return look_up(self.values(adapter), self.packed(adapter).unpack())

    def compute_base_weight(self) -> Tensor | None:
        """Return the sketch before training, which is what remains of W; None before there is one."""
        if not self.sketched:
            return None
        name = min(self.sketched)
        return look_up(self.values(name, trained=False), self.packed(name).unpack())

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Move to the device alone: the change of a value would vanish in 16 bits."""
        base: Any = self.get_base_layer()
        target = base.weight.device if device is None else device
        if target.type != "meta" and not self.sketch_shift[adapter_name].is_meta:
            self.sketch_shift[adapter_name].data = self.sketch_shift[adapter_name].data.to(target)
            self.sketch_codes[adapter_name].to(target)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Free W where a sketch comes with the state; the sketch itself is loaded as a part of this layer."""
        for name in self.sketch_codes:
            if f"{prefix}sketch_codes.{name}.codes" in state_dict:
                self.mark_sketched(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SketchModel(Tuner):
    """Puts `SketchLinear` around linear layers with plain weights, and around GPT-2's Conv1D."""

    prefix, tuner_layer_cls = "sketch_", SketchLinear
    layers = {nn.Linear: SketchLinear, Conv1D: SketchLinear}  # noqa: RUF012


register("sketch", SketchConfig, SketchModel)
