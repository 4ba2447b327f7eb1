"""Train some entries of a weight as a vector, in place of the whole weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

#: A weight's places in a model: modules and the attribute; more than one where it is tied.
Places = Sequence[tuple[nn.Module, str]]


class _Scatter(torch.autograd.Function):
    """values [k] -> the dense weight that holds them; backward passes on only their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, dense: Tensor, indices: Tensor) -> Tensor:
        """Write the values into the weight's storage, so that there is no copy of it."""
        dense.view(-1)[indices] = values.to(dense.dtype)
        ctx.save_for_backward(indices)
        ctx.dtype = values.dtype
        return dense.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Return the gradient of the values; that of the whole weight is dropped."""
        (indices,) = ctx.saved_tensors
        return gradient.reshape(-1)[indices].to(ctx.dtype), None, None


class TrainedEntries(nn.Module):
    """The trained entries of one weight, as a parametrisation of it (torch.nn.utils.parametrize).

    The optimizer gets a float32 vector and keeps state for it alone; clipping, weight decay and
    momentum cannot change other entries. The gradient of the whole weight exists only during its
    layer's backward (SaRA, arXiv 2409.06633, unstructural back-propagation).

    Args:
        name: name of the weight in the model.
        dense: the weight, which the values are written into; not trained itself.
        indices: positions in the flattened weight, ascending, [k].
    """

    def __init__(self, name: str, dense: nn.Parameter, indices: Tensor) -> None:
        super().__init__()
        self.name, self.shape = name, dense.shape
        self.initial_indices = indices  # those of the first selection; `indices` is a subset
        self.register_buffer("indices", indices, persistent=False)
        self.values = nn.Parameter(dense.detach().reshape(-1)[indices].float())
        self._dense: list[Tensor] = [dense]  # in a list, so that it is no parameter of this module
        self.indices: Tensor

    @property
    def dense(self) -> Tensor:
        """The whole weight, without a gradient."""
        return self._dense[0].data

    def forward(self, original: Tensor) -> Tensor:
        """Return the weight with the values written into it."""
        self._dense = [original]  # moving the model to a device may have replaced the tensor
        return _Scatter.apply(self.values, original.data, self.indices)

    @torch.no_grad()
    def write(self) -> None:
        """Write the values into the weight."""
        self.dense.view(-1)[self.indices] = self.values.to(self.dense.dtype)

    @torch.no_grad()
    def restrict(self, chosen: Tensor) -> None:
        """Train only some of the current entries from now on; the others keep their last value.

        Args:
            chosen: bool [k], over the current entries.
        """
        self.write()
        self.values.data = self.values[chosen].clone()
        self.values.grad = None
        self.indices = self.indices[chosen]

    @torch.no_grad()
    def all_values(self) -> Tensor:
        """Return the values of all entries of the first selection, also of frozen ones; float32."""
        values = self.dense.view(-1)[self.initial_indices].float()
        values[self.find_slots()] = self.values.detach()
        return values

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Restore the values that `all_values` returned."""
        values = values.to(self.values.device)
        self.dense.view(-1)[self.initial_indices] = values.to(self.dense.dtype)
        self.values.copy_(values[self.find_slots()])

    def find_slots(self) -> Tensor:
        """Return the slots [k] of the current entries among those of the first selection."""
        return torch.searchsorted(self.initial_indices, self.indices)

    def matrix(self) -> Tensor:
        """Return the values within a weight of zeros; differentiable."""
        zeros = torch.zeros(self.shape.numel(), device=self.values.device)
        return zeros.index_put((self.indices.long(),), self.values).view(self.shape)


def find_weights(model: nn.Module, names: Sequence[str]) -> dict[str, tuple[nn.Parameter, Places]]:
    """Return the weight and all its places for each of these parameter names."""
    wanted, named = set(names), dict(model.named_parameters())
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, attribute))
    return {name: (p, places[id(p)]) for name, p in named.items() if name in wanted}


def install_entries(entries: TrainedEntries, places: Places) -> None:
    """Register the trained entries as the parametrisation of their weight at all its places."""
    for module, attribute in places:
        parametrize.register_parametrization(module, attribute, entries, unsafe=True)


def find_entries(model: nn.Module) -> dict[str, TrainedEntries]:
    """Return the trained entries of a model by the name of their weight."""
    return {m.name: m for m in model.modules() if isinstance(m, TrainedEntries)}


def remove_entries(model: nn.Module) -> list[tuple[TrainedEntries, Places]]:
    """Remove all parametrisations after writing their values; returns them with their places."""
    places: dict[TrainedEntries, list[tuple[nn.Module, str]]] = {}
    for module in list(model.modules()):
        lists: Mapping[str, Any] = getattr(module, "parametrizations", {})
        for attribute in list(lists):
            for parametrization in lists[attribute]:
                if isinstance(parametrization, TrainedEntries):
                    places.setdefault(parametrization, []).append((module, attribute))
    for entries, locations in places.items():
        entries.write()
        for module, attribute in locations:
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    return list(places.items())


@contextmanager
def without_entries(model: nn.Module) -> Iterator[nn.Module]:
    """Context in which the model has no parametrisations, so that it can be saved."""
    removed = remove_entries(model)
    try:
        yield model
    finally:
        for entries, places in removed:
            install_entries(entries, places)
