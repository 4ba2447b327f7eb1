"""Some entries of a weight as a vector that trains, in the place of the whole weight."""

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
    """values [k] -> the dense weight that holds them; backward hands on only their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, dense: Tensor, indices: Tensor) -> Tensor:
        """Write the values into the weight's own storage, so that no copy of it exists."""
        dense.view(-1)[indices] = values.to(dense.dtype)
        ctx.save_for_backward(indices)
        ctx.dtype = values.dtype
        return dense.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The gradient of the values; that of the whole weight ends here."""
        (indices,) = ctx.saved_tensors
        return gradient.reshape(-1)[indices].to(ctx.dtype), None, None


class Gathered(nn.Module):
    """The trained entries of one weight, as a parametrisation of it (torch.nn.utils.parametrize).

    The optimizer sees a float32 vector and keeps state for it alone; clipping, weight decay and
    momentum cannot touch other entries. The gradient of the whole weight lives only inside of its
    layer's backward (SaRA, arXiv 2409.06633, unstructural back-propagation).

    Args:
        name: of the weight in the model.
        dense: the weight, which this writes into; not trained itself.
        indices: positions in the flattened weight, ascending, [k].
    """

    def __init__(self, name: str, dense: nn.Parameter, indices: Tensor) -> None:
        super().__init__()
        self.name, self.shape = name, dense.shape
        self.first = indices  # the entries of the beginning; `indices` are a part of them
        self.register_buffer("indices", indices, persistent=False)
        self.values = nn.Parameter(dense.detach().reshape(-1)[indices].float())
        self._dense: list[Tensor] = [dense]  # in a list: no parameter of this module
        self.indices: Tensor

    @property
    def dense(self) -> Tensor:
        """The whole weight, without a gradient."""
        return self._dense[0].data

    def forward(self, original: Tensor) -> Tensor:
        """The weight with the values in it."""
        self._dense = [original]  # moving a model to a device may have put another in its place
        return _Scatter.apply(self.values, original.data, self.indices)

    @torch.no_grad()
    def write(self) -> None:
        """Put the values into the weight now."""
        self.dense.view(-1)[self.indices] = self.values.to(self.dense.dtype)

    @torch.no_grad()
    def keep(self, chosen: Tensor) -> None:
        """Train only some of the present entries from now on; the others keep their last value.

        Args:
            chosen: bool [k], over the present entries.
        """
        self.write()
        self.values.data = self.values[chosen].clone()
        self.values.grad = None
        self.indices = self.indices[chosen]

    @torch.no_grad()
    def beginning(self) -> Tensor:
        """Values of all entries of the beginning, also of those that are trained no more; float32."""
        found = self.dense.view(-1)[self.first].float()
        found[self.slots()] = self.values.detach()
        return found

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Take back what `beginning` gave."""
        values = values.to(self.values.device)
        self.dense.view(-1)[self.first] = values.to(self.dense.dtype)
        self.values.copy_(values[self.slots()])

    def slots(self) -> Tensor:
        """Where the present entries stand among those of the beginning, [k]."""
        return torch.searchsorted(self.first, self.indices)

    def matrix(self) -> Tensor:
        """The values in a weight of zeros, with a gradient."""
        zeros = torch.zeros(self.shape.numel(), device=self.values.device)
        return zeros.index_put((self.indices.long(),), self.values).view(self.shape)


def weights(model: nn.Module, names: Sequence[str]) -> dict[str, tuple[nn.Parameter, Places]]:
    """Name -> weight and all its places, for these names of parameters."""
    wanted, named = set(names), dict(model.named_parameters())
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), []).append((module, attribute))
    return {name: (p, found[id(p)]) for name, p in named.items() if name in wanted}


def install(gathered: Gathered, places: Places) -> None:
    """Let a weight be what its gathered entries make of it."""
    for module, attribute in places:
        parametrize.register_parametrization(module, attribute, gathered, unsafe=True)


def installed(model: nn.Module) -> dict[str, Gathered]:
    """Name of a weight -> its gathered entries."""
    return {m.name: m for m in model.modules() if isinstance(m, Gathered)}


def remove(model: nn.Module) -> list[tuple[Gathered, Places]]:
    """Give back the plain model, with the values in its weights; returns what was removed."""
    places: dict[Gathered, list[tuple[nn.Module, str]]] = {}
    for module in list(model.modules()):
        lists: Mapping[str, Any] = getattr(module, "parametrizations", {})
        for attribute in list(lists):
            for one in lists[attribute]:
                if isinstance(one, Gathered):
                    places.setdefault(one, []).append((module, attribute))
    for one, where in places.items():
        one.write()
        for module, attribute in where:
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    return list(places.items())


@contextmanager
def plain(model: nn.Module) -> Iterator[nn.Module]:
    """The model without parametrisations for a while, to be saved."""
    removed = remove(model)
    try:
        yield model
    finally:
        for one, where in removed:
            install(one, where)
