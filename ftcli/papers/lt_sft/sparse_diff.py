"""Sparse differences of weights: taken, saved, added to a model and taken off again.

A file holds for each tensor the steps between the positions of its entries and their values, and heads as they are:
8 bytes an entry for tensors of less than 2**31.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.deltas.delta import Delta

SMALLEST = 1e-7  # differences up to this count as none (the authors' code)
INT32 = 2**31  # positions below this are stored in 4 bytes


@dataclass(frozen=True)
class SparseDiff:
    """Differences at some entries of tensors, and other tensors as a whole.

    Attributes:
        shapes: name -> shape of a tensor with differences.
        positions: name -> positions in the flattened tensor, ascending int64 [k].
        values: name -> differences there [k].
        dense: name -> tensor that replaces the model's (heads).
    """

    shapes: dict[str, tuple[int, ...]]
    positions: dict[str, Tensor]
    values: dict[str, Tensor]
    dense: dict[str, Tensor] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        """Number of differences that are stored."""
        return sum(len(values) for values in self.values.values())

    @torch.no_grad()
    def apply(self, model: nn.Module, with_dense: bool = True) -> None:
        """Add the differences to a model's parameters, in place.

        Args:
            with_dense: also copy the whole tensors; not those of a language into a model of a task.
        """
        self._add(model, 1.0)
        for name, tensor in self.dense.items() if with_dense else ():
            model.get_parameter(name).copy_(tensor)

    @torch.no_grad()
    def revert(self, model: nn.Module) -> None:
        """Subtract the differences from a model's parameters, in place; heads stay."""
        self._add(model, -1.0)

    def _add(self, model: nn.Module, factor: float) -> None:
        for name, positions in self.positions.items():
            parameter = model.get_parameter(name)
            values = self.values[name].to(parameter) * factor
            parameter.view(-1).index_add_(0, positions.to(parameter.device), values)

    def expand(self, name: str) -> Tensor:
        """Return the difference of one tensor with its zeros, float64."""
        dense = torch.zeros(self.shapes[name], dtype=torch.float64)
        dense.view(-1)[self.positions[name]] = self.values[name].double()
        return dense


def take_diff(
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    dense: Mapping[str, Tensor] | None = None,
) -> SparseDiff:
    """Return trained minus start at the entries where it is above 1e-7, and copies of the dense tensors."""
    shapes, positions, values = {}, {}, {}
    for name, before in start.items():
        change = (trained[name].detach() - before).flatten()
        shapes[name] = tuple(before.shape)
        positions[name] = (change.abs() > SMALLEST).nonzero().flatten().cpu()
        values[name] = change.cpu()[positions[name]]
    whole = {name: tensor.detach().cpu().clone() for name, tensor in (dense or {}).items()}
    return SparseDiff(shapes, positions, values, whole)


def save_diff(diff: SparseDiff, path: Path) -> None:
    """Write the differences as safetensors."""
    tensors: dict[str, Tensor] = {}
    for name, positions in diff.positions.items():
        tensors[f"steps:{name}"] = encode_positions(positions, diff.shapes[name])
        tensors[f"values:{name}"] = diff.values[name]
    tensors |= {f"dense:{name}": tensor for name, tensor in diff.dense.items()}
    save_file(tensors, path, metadata={"shapes": json.dumps(diff.shapes)})


def load_diff(path: Path) -> SparseDiff:
    """Read what `save_diff` wrote.

    Raises:
        UserError: the file is of another kind.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        stored = {key: file.get_tensor(key) for key in file.keys()}
    if "shapes" not in metadata:
        raise UserError(f"{path} holds no sparse differences.", fix="name the run or model folder")
    parts: dict[str, dict[str, Tensor]] = {"steps": {}, "values": {}, "dense": {}}
    for key, tensor in stored.items():
        kind, _, name = key.partition(":")
        parts[kind][name] = tensor
    shapes = {name: tuple(shape) for name, shape in json.loads(metadata["shapes"]).items()}
    positions = {name: decode_positions(steps) for name, steps in parts["steps"].items()}
    return SparseDiff(shapes, positions, parts["values"], parts["dense"])


def save_masks(masks: Mapping[str, Tensor], path: Path) -> None:
    """Write the positions of the selected entries of each tensor, in one step that a crash cannot cut."""
    steps = {
        name: encode_positions(mask.flatten().nonzero().flatten().cpu(), tuple(mask.shape))
        for name, mask in masks.items()
    }
    unfinished = path.with_name(f"{path.name}.unfinished")
    save_file(steps, unfinished)
    unfinished.replace(path)


def load_masks(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read what `save_masks` wrote, as bool tensors of the shapes and on the devices of `like`."""
    masks = {}
    with safe_open(path, framework="pt") as file:
        for name, tensor in like.items():
            mask = torch.zeros(tensor.numel(), dtype=torch.bool)
            mask[decode_positions(file.get_tensor(name))] = True
            masks[name] = mask.view_as(tensor).to(tensor.device)
    return masks


def encode_positions(positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the first position and the steps between ascending positions [k]; int32 where the tensor is below 2**31."""
    steps = positions.diff(prepend=positions.new_zeros(1))
    return steps.to(torch.int32 if torch.Size(shape).numel() < INT32 else torch.int64)


def decode_positions(steps: Tensor) -> Tensor:
    """Return the positions of `encode_positions`, int64 [k]; sums of int32 steps do not overflow."""
    return steps.long().cumsum(0)


def as_delta(diff: SparseDiff, like: Delta) -> Delta:
    """Return the differences as a delta with base and tensors of another; what has no difference is zero.

    Raises:
        UserError: a tensor is missing in the other delta, or has another shape.
    """
    for name, shape in diff.shapes.items():
        if like.shapes.get(name) != shape:
            what = f"{name} {list(shape)} is no tensor of the other model."
            raise UserError(what, fix="add vectors of one base")

    def read(name: str) -> Tensor:
        if name in diff.shapes:
            return diff.expand(name)
        return torch.zeros(like.shapes[name], dtype=torch.float64)

    return replace(like, read=read, history=("sparse differences",))
