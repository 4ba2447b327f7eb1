"""S2FT (arXiv 2412.06289): train a few heads and channels as dense slices of their matrices.

Heads and channels are selected over the whole model, those of a layer are made consecutive by
reordering coupled matrices (the function stays the same), and each run of rows or columns gets a
trained addition, zero at first. The configuration stores selected units by their position in the
original base, so that an adapter consists of slices and loads on the unchanged base.
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
from ftcli.papers.s2ft.coupled import CoupledStructure, Part, find_coupled, invert_order
from ftcli.papers.s2ft.selection import PARTS, select_units

RATIOS = {"v": 0.0, "o": 0.0, "u": 0.0, "d": 0.03}


@dataclass
class S2ftConfig(PeftConfig):
    """How many heads and channels are trained, and which."""

    #: Shares of all heads (v: rows of value, o: columns of output) and channels (u: rows of up,
    #: d: columns of down) of the model that are trained.
    ratios: dict[str, float] = field(default_factory=lambda: dict(RATIOS))
    selection: Literal["random", "weight"] = "random"  # at random, or by the slice's norm
    direction: Literal["small", "large"] = "small"  # which norms selection=weight takes
    seed: int = 0  # of the random selection
    #: Selected units: linear -> heads, key-value heads or channels, in the order of the slice.
    selected: dict[str, list[int]] | None = None

    def __post_init__(self) -> None:
        """Check ratios, selection and direction.

        Raises:
            ValueError: a ratio's letter is unknown, a ratio is outside 0 .. 1, all are 0, or
                selection or direction is unknown.
        """
        super().__post_init__()
        self.peft_type = PeftType("S2FT")
        self.target_modules: Any = None  # read by PEFT; the targets are the keys of `selected`
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
    """Position of a slice in the base as it is stored now.

    Attributes:
        side: rows (out) or columns (in).
        size: number of rows or columns.
        start: the first one, if they are consecutive; else None.
        index: all of them, int64 [size].
    """

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
        """Add a slice of zeros of the size of its place."""
        base: Any = self.get_base_layer()
        rows, columns = _get_shape(base)
        place = self.places[adapter]
        shape = (place.size, columns) if place.side == "out" else (rows, place.size)
        self.s2ft_slice[adapter] = nn.Parameter(torch.zeros(shape, device=base.weight.device))
        self.s2ft_index[adapter] = place.index.to(base.weight.device)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map [.., in] -> [.., out]; autograd keeps only the selected columns of the input."""
        out = self.base_layer(x, *args, **kwargs)
        for adapter in self.adapters_in_effect():
            part = self.s2ft_slice[adapter]
            if self.places[adapter].side == "in":
                chosen = self._cast_input_dtype(self._take_columns(x, adapter), part.dtype)
                out = out + nn.functional.linear(chosen, part).to(out.dtype)
            else:
                x_cast = self._cast_input_dtype(x, part.dtype)
                out = self._add_rows(out, nn.functional.linear(x_cast, part), adapter)
        return out

    def delta(self, adapter: str) -> Tensor:
        """Return the slice within zeros, in the layout of the base weight as it is stored now."""
        base: Any = self.get_base_layer()
        part, index = self.s2ft_slice[adapter], self.s2ft_index[adapter]
        change = part.new_zeros(_get_shape(base))
        change.index_copy_(int(self.places[adapter].side == "in"), index, part)
        return change.T if isinstance(base, Conv1D) else change

    def _take_columns(self, x: Tensor, adapter: str) -> Tensor:
        """Return a copy of the selected columns; a view would keep all of x until backward."""
        place = self.places[adapter]
        if place.start is None:
            return x.index_select(-1, self.s2ft_index[adapter])
        return x.narrow(-1, place.start, place.size).contiguous()

    def _add_rows(self, out: Tensor, change: Tensor, adapter: str) -> Tensor:
        place = self.places[adapter]
        if place.start is None or self.quantization_backend is not None:
            return out.index_add(-1, self.s2ft_index[adapter], change.to(out.dtype))
        out.narrow(-1, place.start, place.size).add_(change)
        return out


class S2ftModel(Tuner):
    """Tuner that selects units, reorders them, and wraps the linears that have selected units."""

    prefix = "s2ft_"
    tuner_layer_cls = S2ftLinear
    layers: ClassVar[dict[type, type[TunerLayer]]] = {nn.Linear: S2ftLinear, Conv1D: S2ftLinear}

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # the targets are the keys of `selected`

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        structures = find_coupled(model)
        if peft_config.selected is None:
            peft_config.selected = select_units(structures, peft_config)
        self._places = self._reorder(structures, peft_config.selected)
        missing = sorted(peft_config.selected.keys() - self._places.keys())
        if missing:
            raise ValueError(f"{missing[0]} is selected, and the model has no such coupled layer")

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> bool:
        return key in peft_config.selected

    def add_adapter_to_layer(self, layer: TunerLayer, adapter: str, config: Any, name: str) -> None:
        """Add an adapter to a layer after storing the place of its slice."""
        assert isinstance(layer, S2ftLinear)
        layer.places[adapter] = self._places[name]
        super().add_adapter_to_layer(layer, adapter, config, name)

    def _reorder(
        self, structures: Sequence[CoupledStructure], selected: dict[str, list[int]]
    ) -> dict[str, Place]:
        """Reorder structures that are not fixed, once for all adapters; returns the slices' places."""
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
                order = structure.arrange_units(first or (), second or chosen.get("down") or ())
                structure.reorder(order)
                orders[structure.name] = (structure, order)
            count = structure.groups * structure.each
            order = orders[structure.name][1] if structure.name in orders else list(range(count))
            for role, units in chosen.items():
                part = structure.parts[role]
                current = invert_order(structure.convert_order(part, order))
                places[part.linear.name] = _locate_units(part, [current[unit] for unit in units])
        return places

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        """Unload as PEFT does, then restore the original order of the base."""
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for structure, order in self.__dict__.pop("orders", {}).values():
            structure.reorder(invert_order(order))
        return model


def _locate_units(part: Part, units: Sequence[int]) -> Place:
    """Return the place of units of a part of a weight."""
    index = part.index(units)
    consecutive = torch.equal(index, torch.arange(len(index)) + index[0])
    return Place(part.side, len(index), int(index[0]) if consecutive else None, index)


def _get_shape(linear: Any) -> tuple[int, int]:
    """Return (out, in) of a linear or Conv1D."""
    if isinstance(linear, Conv1D):
        return int(linear.nf), int(linear.nx)
    return int(linear.out_features), int(linear.in_features)


register("s2ft", S2ftConfig, S2ftModel)
