"""Coupled structures: rows of some matrices that belong to columns of another one.

Rows of query, key and value belong, head by head, to columns of the attention's output projection;
rows of up and gate to columns of down, channel by channel. Reordering both ends alike leaves the
function as it is (S2FT, arXiv 2412.06289, section 3.2). With grouped queries the heads that share
a key and value stay together: groups are reordered, and heads inside a group.

The role of a linear follows from its name and shape. Where a structure is known only in part (fused
layers of another layout, biases or norms that belong to heads), it is marked `fixed`: its parts can
be addressed, but not reordered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ftcli.models.anatomy import Anatomy, Linear

ATTENTION = {
    "query": ("q_proj", "query", "q", "q_lin"),
    "key": ("k_proj", "key", "k", "k_lin"),
    "value": ("v_proj", "value", "v", "v_lin"),
    "output": ("o_proj", "out_proj", "o", "out_lin", "dense", "c_proj"),
}
MLP = {
    "up": ("up_proj", "c_fc", "fc1", "wi", "wi_1", "w3", "lin1", "dense_h_to_4h", "intermediate.dense"),
    "gate": ("gate_proj", "wi_0", "w1"),
    "down": ("down_proj", "c_proj", "fc2", "wo", "w2", "lin2", "dense_4h_to_h", "output.dense"),
}  # fmt: skip
#: (Fused layer, output projection, kind) where the fused rows are all queries, then all keys, all values.
ROWS_IN_TURN = {("qkv_proj", "o_proj", "linear"), ("c_attn", "c_proj", "conv1d")}
HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")


@dataclass(frozen=True)
class Part:
    """Rows (side "out") or columns (side "in") of one linear's weight: `units` runs of `width`."""

    linear: Linear
    side: Literal["out", "in"]
    units: int
    width: int = 1
    start: int = 0  # first row, in a fused layer

    @property
    def dim(self) -> int:
        """The dimension of the stored weight that units divide; a Conv1D stores it [in, out]."""
        return int((self.side == "in") != (self.linear.kind == "conv1d"))

    def index(self, units: Sequence[int]) -> Tensor:
        """Return the rows (or columns) of these units, int64 [len(units) * width]."""
        first = torch.tensor(units, dtype=torch.long).unsqueeze(1) * self.width + self.start
        return (first + torch.arange(self.width)).flatten()

    @torch.no_grad()
    def reorder(self, order: Sequence[int]) -> None:
        """Move unit order[i] to the position of unit i, in the weight and, for rows, the bias."""
        module: Any = self.linear.module
        tensors = [(module.weight, self.dim)]
        if self.side == "out" and module.bias is not None:
            tensors.append((module.bias, 0))
        for tensor, dim in tensors:
            rows = slice(self.start, self.start + self.units * self.width)
            index = torch.arange(tensor.shape[dim])
            index[rows] = self.index(order)
            tensor.copy_(tensor.index_select(dim, index.to(tensor.device)))


@dataclass(frozen=True)
class CoupledStructure:
    """One attention or MLP: parts by role, units in `groups` (of `each` query heads in attention)."""

    name: str
    parts: dict[str, Part]
    groups: int
    each: int = 1
    fixed: bool = False

    def reorder(self, order: Sequence[int]) -> None:
        """Reorder every part in the same way.

        Args:
            order: order of all heads or channels; heads of a group are consecutive.
        """
        for part in self.parts.values():
            part.reorder(self.convert_order(part, order))

    def convert_order(self, part: Part, order: Sequence[int]) -> Sequence[int]:
        """Convert the order to the units of a part, which are groups for keys and values."""
        if part.units == len(order):
            return order
        return [order[i] // self.each for i in range(0, len(order), self.each)]

    def arrange_units(self, first: Collection[int], second: Collection[int]) -> list[int]:
        """Return an order in which selected groups (`first`) and heads or channels (`second`) are runs.

        The order is [only first][both][only second][rest]. `second` is one run if it includes no more
        than one group in part.
        """
        first, selected = set(first), set(second)
        ranked: list[tuple[int, list[int]]] = []
        for group in range(self.groups):
            units = range(group * self.each, (group + 1) * self.each)
            inside = [unit for unit in units if unit in selected]
            outside = [unit for unit in units if unit not in selected]
            if group in first:
                ranked.append((2 if not outside else 1 if inside else 0, outside + inside))
            else:
                ranked.append((3 if not outside else 4 if inside else 5, inside + outside))
        return [unit for _, units in sorted(ranked, key=lambda item: item[0]) for unit in units]


def invert_order(order: Sequence[int]) -> list[int]:
    """Return the inverse of a permutation."""
    inverse = [0] * len(order)
    for position, unit in enumerate(order):
        inverse[unit] = position
    return inverse


def find_coupled(model: nn.Module) -> list[CoupledStructure]:
    """Return the attentions and MLPs of a model's blocks, in the order of the model."""
    anatomy = Anatomy(model)
    structures: list[CoupledStructure] = []
    for block, _ in anatomy.blocks:
        groups: dict[tuple[str, bool], list[Linear]] = {}
        for linear in anatomy.linears_of(block):
            groups.setdefault(_find_structure(linear.name, block), []).append(linear)
        for (name, attention), linears in groups.items():
            build = _build_attention if attention else _build_mlp
            structures += build(anatomy, name, linears)
    return structures


def _find_structure(name: str, block: str) -> tuple[str, bool]:
    """Return the name of a linear's structure and whether it is an attention.

    The structure is the attention module, else the module (or block) that holds the MLP.
    """
    parts = name[len(block) + 1 :].split(".")
    for depth, part in enumerate(parts[:-1], 1):
        if "attn" in part.lower() or "attention" in part.lower():
            return ".".join([block, *parts[:depth]]), True
    parts = parts[:-1]
    if parts and parts[-1] in ("intermediate", "output"):  # BERT: two modules of one dense each
        parts = parts[:-1]
    return ".".join([block, *parts]), False


def _match_roles(linears: list[Linear], names: dict[str, tuple[str, ...]]) -> dict[str, Linear]:
    return {
        role: linear
        for role, suffixes in names.items()
        for linear in linears
        if any(f".{linear.name}".endswith(f".{suffix}") for suffix in suffixes)
    }


def _build_attention(
    anatomy: Anatomy, name: str, linears: list[Linear]
) -> Iterator[CoupledStructure]:
    roles = _match_roles(linears, ATTENTION)
    output, width = roles.get("output"), _find_head_size(anatomy, name)
    if output is None or not width or output.in_features % width:
        return
    heads = output.in_features // width
    rows = {role: (li, 0, li.out_features) for role, li in roles.items() if role != "output"}
    for linear in linears:
        ends = (linear.name, output.name)
        if (*(end.rpartition(".")[2] for end in ends), linear.kind) in ROWS_IN_TURN:
            rows |= _split_fused(linear, ("query", "key", "value"))
    parts = {
        role: Part(linear, "out", size // width, width, start)
        for role, (linear, start, size) in rows.items()
    }
    groups = parts["value"].units if "value" in parts else heads
    counts = {role: part.units for role, part in parts.items()}
    known = counts == {"query": heads, "key": groups, "value": groups} and heads % groups == 0
    parts["output"] = Part(output, "in", heads, width)
    fixed = not known or _has_head_parameters(anatomy, name, parts, width)
    yield CoupledStructure(
        name, parts, groups if known else heads, heads // groups if known else 1, fixed
    )


def _build_mlp(anatomy: Anatomy, name: str, linears: list[Linear]) -> Iterator[CoupledStructure]:
    roles = _match_roles(linears, MLP)
    down = roles.get("down")
    if down is None:
        return
    channels = down.in_features
    rows = {role: (li, 0, li.out_features) for role, li in roles.items() if role != "down"}
    for linear in linears:
        if linear.fused == "gate_up":
            rows |= _split_fused(linear, ("gate", "up"))
    parts = {
        role: Part(linear, "out", channels, start=start)
        for role, (linear, start, size) in rows.items()
        if size == channels
    }
    parts["down"] = Part(down, "in", channels)
    fixed = "up" not in parts or _has_channel_parameters(anatomy, name, parts, channels)
    yield CoupledStructure(name, parts, channels, fixed=fixed)


def _split_fused(linear: Linear, roles: tuple[str, ...]) -> dict[str, tuple[Linear, int, int]]:
    """Return linear, first row and number of rows of each role in a fused linear."""
    starts = [sum(linear.parts[:i]) for i in range(len(linear.parts))]
    return {
        role: (linear, start, size)
        for role, start, size in zip(roles, starts, linear.parts, strict=False)
    }


def _find_head_size(anatomy: Anatomy, name: str) -> int | None:
    """Return the head size of the attention module or a module inside it, else the configuration's."""
    for key, module in anatomy.modules.items():
        if key == name or key.startswith(f"{name}."):
            values = [getattr(module, attribute, None) for attribute in HEAD_SIZES]
            sizes = [value for value in values if isinstance(value, int)]
            if sizes:
                return sizes[0]
    config = getattr(anatomy.model, "config", None)
    return getattr(config, "head_dim", None)


def _other_modules(anatomy: Anatomy, name: str, parts: dict[str, Part]) -> Iterator[nn.Module]:
    """Yield the modules at and below `name` that are not linears of the structure."""
    linears = {id(part.linear.module) for part in parts.values()}
    for key, module in anatomy.modules.items():
        if (key == name or key.startswith(f"{name}.")) and id(module) not in linears:
            yield module


def _has_head_parameters(anatomy: Anatomy, name: str, parts: dict[str, Part], width: int) -> bool:
    """Whether other parameters belong to heads: packed weights, position biases, norms over all heads."""
    if any(not _is_reorderable(part.linear) for part in parts.values()):
        return True
    if getattr(getattr(anatomy.model, "config", None), "alibi", False):
        return True
    inner = parts["query"].linear.name.rpartition(".")[0]
    for module in _other_modules(anatomy, inner, parts):
        if hasattr(module, "has_relative_attention_bias"):
            return True
        if any(tuple(p.shape) != (width,) for p in module.parameters(recurse=False)):
            return True
        if any(parts["output"].units in b.shape for b in module.buffers(recurse=False)):
            return True
    return False


def _has_channel_parameters(
    anatomy: Anatomy, name: str, parts: dict[str, Part], channels: int
) -> bool:
    """Whether another parameter has the width of the channels, such as a norm before down, or one is packed."""
    if any(not _is_reorderable(part.linear) for part in parts.values()):
        return True
    others = _other_modules(anatomy, name, parts)
    return any(channels in p.shape for module in others for p in module.parameters(recurse=False))


def _is_reorderable(linear: Linear) -> bool:
    """Whether single rows or columns of the weight can be moved, which packed weights do not allow."""
    weight: Any = linear.module.weight
    return linear.kind in ("linear", "conv1d") and weight.dtype.is_floating_point
