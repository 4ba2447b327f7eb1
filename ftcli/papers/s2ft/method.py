"""S2FT (arXiv 2412.06289): train a few heads and channels as dense slices of their matrices.

Heads and channels are chosen over the whole model, those of a layer are brought side by side by
reordering coupled matrices (the function stays the same), and each run of rows or columns gets a
trained addition, zero at first. A configuration names what was chosen by its place in the base as
it was, so that an adapter is slices and loads on the untouched base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from peft import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from peft.utils import PeftType
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.papers.s2ft.coupled import Coupled, Part, coupled, inverse
from ftcli.papers.s2ft.selection import PARTS, select

RATIOS = {"v": 0.0, "o": 0.0, "u": 0.0, "d": 0.03}


@dataclass
class S2ftConfig(PeftConfig):
    """How many heads and channels are trained, and which."""

    #: Shares of all heads (v: rows of value, o: columns of output) and channels (u: rows of up,
    #: d: columns of down) of the model that are trained.
    ratios: dict[str, float] = field(default_factory=lambda: dict(RATIOS))
    selection: Literal["random", "weight"] = "random"  # by chance, or by the slice's norm
    direction: Literal["small", "large"] = "small"  # which norms selection=weight takes
    seed: int = 0  # of the choice by chance
    #: What was chosen: linear -> heads, key-value heads or channels, in the order of the slice.
    selected: dict[str, list[int]] | None = None

    def __post_init__(self) -> None:
        """Refuse what selects nothing.

        Raises:
            ValueError: ratios are unknown, outside 0 .. 1, or all 0; selection is unknown.
        """
        super().__post_init__()
        self.peft_type = PeftType("S2FT")
        self.target_modules: Any = None  # PEFT looks for it; what is selected says it here
        unknown = sorted(self.ratios.keys() - RATIOS.keys())
        if unknown:
            raise ValueError(f"ratios.{unknown[0]}: there are {', '.join(RATIOS)}")
        if any(not 0 <= ratio <= 1 for ratio in self.ratios.values()):
            raise ValueError("ratios lie between 0 and 1")
        if not any(self.ratios.values()) and not self.selected:
            raise ValueError("all ratios are 0, so nothing is trained")
        if self.selection not in ("random", "weight") or self.direction not in ("small", "large"):
            raise ValueError("selection is random or weight, direction small or large")


@dataclass(frozen=True)
class Place:
    """Where a slice acts in the base as it is stored now: a run from `start`, or scattered `index`."""

    side: Literal["out", "in"]
    size: int
    start: int | None
    index: Tensor


class S2ftLinear(TunerLayer):
    """A linear with a trained addition to some of its rows [k, in] or columns [out, k]."""

    adapter_layer_names = ("s2ft_slice",)
    other_param_names = ("s2ft_index",)
    s2ft_slice: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.s2ft_index = BufferDict(persistent=False)
        self.places: dict[str, Place] = {}

    def add(self, adapter: str, config: S2ftConfig) -> None:
        """Zeros, as large as the place."""
        base: Any = self.get_base_layer()
        rows, columns = _shape(base)
        place = self.places[adapter]
        shape = (place.size, columns) if place.side == "out" else (rows, place.size)
        self.s2ft_slice[adapter] = nn.Parameter(torch.zeros(shape, device=base.weight.device))
        self.s2ft_index[adapter] = place.index.to(base.weight.device)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[.., in] -> [.., out]; of the inputs only the chosen columns are kept for the gradient."""
        out = self.base_layer(x, *args, **kwargs)
        for adapter in self.adapters_in_effect():
            part = self.s2ft_slice[adapter]
            if self.places[adapter].side == "in":
                chosen = self._cast_input_dtype(self._taken(x, adapter), part.dtype)
                out = out + nn.functional.linear(chosen, part).to(out.dtype)
            else:
                x_cast = self._cast_input_dtype(x, part.dtype)
                out = self._put(out, nn.functional.linear(x_cast, part), adapter)
        return out

    def delta(self, adapter: str) -> Tensor:
        """The slice among zeros, in the layout of the base weight as it is stored now."""
        base: Any = self.get_base_layer()
        part, index = self.s2ft_slice[adapter], self.s2ft_index[adapter]
        change = part.new_zeros(_shape(base))
        change.index_copy_(int(self.places[adapter].side == "in"), index, part)
        return change.T if isinstance(base, Conv1D) else change

    def _taken(self, x: Tensor, adapter: str) -> Tensor:
        """Own memory, for a view of x would keep all of x until the backward pass."""
        place = self.places[adapter]
        if place.start is None:
            return x.index_select(-1, self.s2ft_index[adapter])
        return x.narrow(-1, place.start, place.size).contiguous()

    def _put(self, out: Tensor, change: Tensor, adapter: str) -> Tensor:
        place = self.places[adapter]
        if place.start is None or self.quantization_backend is not None:
            return out.index_add(-1, self.s2ft_index[adapter], change.to(out.dtype))
        out.narrow(-1, place.start, place.size).add_(change)
        return out


class S2ftModel(Tuner):
    """Chooses, reorders, and wraps the linears of which something was chosen; others stay plain."""

    prefix = "s2ft_"
    tuner_layer_cls = S2ftLinear
    layers: ClassVar[dict[type, type[TunerLayer]]] = {nn.Linear: S2ftLinear, Conv1D: S2ftLinear}

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # targets are what is selected

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        structures = coupled(model)
        if peft_config.selected is None:
            peft_config.selected = select(structures, peft_config)
        self._places = self._arrange(structures, peft_config.selected)
        lost = sorted(peft_config.selected.keys() - self._places.keys())
        if lost:
            raise ValueError(f"{lost[0]} is selected, and the model has no such coupled layer")

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> bool:
        return key in peft_config.selected

    def add_adapter_to_layer(self, layer: TunerLayer, adapter: str, config: Any, name: str) -> None:
        """Where the slices of this layer are."""
        assert isinstance(layer, S2ftLinear)
        layer.places[adapter] = self._places[name]
        super().add_adapter_to_layer(layer, adapter, config, name)

    def _arrange(
        self, structures: Sequence[Coupled], selected: dict[str, list[int]]
    ) -> dict[str, Place]:
        """Reorder what may be reordered, once for all adapters; where each slice is then."""
        orders = self.__dict__.setdefault("orders", {})  # name -> (structure, order of its units)
        places = {}
        for structure in structures:
            chosen = {
                role: selected[part.linear.name]
                for role, part in structure.parts.items()
                if role in PARTS.values() and part.linear.name in selected
            }
            if chosen and not structure.fixed and structure.name not in orders:
                first, second = chosen.get("value") or chosen.get("up"), chosen.get("output")
                order = structure.arranged(first or (), second or chosen.get("down") or ())
                structure.reorder(order)
                orders[structure.name] = (structure, order)
            count = structure.groups * structure.each
            order = orders[structure.name][1] if structure.name in orders else list(range(count))
            for role, units in chosen.items():
                part = structure.parts[role]
                now = inverse(structure.order_of(part, order))
                places[part.linear.name] = _place(part, [now[unit] for unit in units])
        return places

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        """As PEFT, and in the order the base had."""
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for structure, order in self.__dict__.pop("orders", {}).values():
            structure.reorder(inverse(order))
        return model


def _place(part: Part, units: Sequence[int]) -> Place:
    """Where units are; a run may be in any part of the weight."""
    index = part.index(units)
    run = torch.equal(index, torch.arange(len(index)) + index[0])
    return Place(part.side, len(index), int(index[0]) if run else None, index)


def _shape(linear: Any) -> tuple[int, int]:
    """(out, in)."""
    if isinstance(linear, Conv1D):
        return int(linear.nf), int(linear.nx)
    return int(linear.out_features), int(linear.in_features)


register("s2ft", S2ftConfig, S2ftModel)
