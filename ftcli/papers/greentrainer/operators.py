"""Costs of the operators of a forward pass, recorded below autograd for any architecture."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftcli.papers.greentrainer.costs import TensorCosts

aten = torch.ops.aten
#: Matrix products -> position of the left factor among the arguments; the right one follows it.
PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.baddbmm: 1}
#: Products in the backward pass of fused attention (the scores are computed again), over two in the forward pass.
ATTENTION_BACKWARD = 2.5


class OperatorRecorder(TorchDispatchMode):
    """Counts the multiply-accumulates of each operator while it is on, and assigns them to tensors.

    A product costs as much again for the gradient of each factor: of a parameter it is the tensor's own
    cost, of an activation it belongs to the path. An elementwise operator with a parameter (a norm,
    a table of tokens) costs an operation an entry; those without are left out, as in the paper.
    What has no parameter of its own that is new (attention, a tied head) lies on the path behind
    the last tensor before it. The recorder is meant for a forward pass without gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {_key(p): name for name, p in model.named_parameters()}
        self.own: dict[str, float] = {}  # in the order of first use
        self.path: dict[str, float] = {}
        self.forward = 0.0
        self._copies: list[Tensor] = []  # kept alive, so that no other tensor takes their storage

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator, then count it."""
        result = func(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if outputs and operands and outputs[0].is_floating_point():
            self._count(func._overloadpacket, args, operands, outputs[0])
        return result

    def collect(self) -> TensorCosts:
        """Return the costs of what was recorded; parameters that no operator used are left out."""
        own, path = (np.array(list(x.values()), dtype=np.float64) for x in (self.own, self.path))
        return TensorCosts(tuple(self.own), own, path, self.forward)

    def _count(self, kind: Any, args: tuple[Any, ...], operands: list[Tensor], out: Tensor) -> None:
        if kind in PRODUCTS:
            left = PRODUCTS[kind]
            pair = [args[left], args[left + 1]]
            work = out.numel() * pair[0].shape[-1]
            self._add(pair, work, work)
            if left and _key(args[0]) in self.names:
                self._add([args[0]], out.numel(), 0)
        elif kind is aten.convolution:
            work = out.numel() * prod(args[1].shape[1:])
            self._add(list(args[:2]), work, work)
        elif "_scaled_dot_product" in str(kind):
            query, key, value = args[:3]
            work = prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
            self.forward += work
            self._extend_path(ATTENTION_BACKWARD * work)
        elif any(_key(x) in self.names for x in operands):
            self._count_elementwise(operands, out)

    def _count_elementwise(self, operands: list[Tensor], out: Tensor) -> None:
        if (
            len(operands) == 1 and out.numel() == operands[0].numel()
        ):  # a view, or a copy that is cast
            self.names[_key(out)] = self.names[_key(operands[0])]
            self._copies.append(out)
        else:
            self._add([x for x in operands if x.is_floating_point()], out.numel(), out.numel())

    def _add(self, factors: list[Tensor], own: float, path: float) -> None:
        """Add an operator, whose gradients by a parameter and by an activation cost `own` and `path`."""
        used = [self.names[_key(x)] for x in factors if _key(x) in self.names]
        new = [name for name in used if name not in self.own]
        for name in used:
            self.own[name] = self.own.get(name, 0.0) + own
            self.path.setdefault(name, 0.0)
        self._extend_path(path * (len(factors) - len(used)), new[0] if new else None)
        self.forward += own

    def _extend_path(self, cost: float, name: str | None = None) -> None:
        """Add a cost to the path at a tensor, else at the last one; no gradient passes before the first."""
        if name is None and self.path:
            name = next(reversed(self.path))
        if name is not None:
            self.path[name] += cost


def _key(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)
