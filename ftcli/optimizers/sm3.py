"""SM3 (arXiv 1901.11150): one second-moment accumulator a row and one a column of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ftcli.optimizers.closure import evaluate_closure
from ftcli.optimizers.sparse_adamw import load_exactly


class SM3(Optimizer):
    """SM3-II (Algorithm 2) with one accumulator an axis; also for sparse entries of a matrix.

    The second moment of an entry is bounded by the smallest accumulator that covers it:
    nu = min(r_i, c_j) + g^2, then r_i and c_j become the maximum of nu over their entries, and the
    update of an entry is lr * g / sqrt(nu + eps). A vector whose values are entries of a matrix is
    declared by `set_layout`; its accumulators are those of the matrix, [out] and [in], whatever the number
    of entries (SpIEL-MA, arXiv 2401.16405, section 3.1). Weight decay is decoupled.

    Args:
        params: parameters, or groups of them.
        momentum: share of the previous update in the next one; takes one state value a trained entry.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._layouts: dict[Tensor, tuple[Tensor, tuple[int, int]]] = {}

    def set_layout(self, param: Tensor, indices: Tensor, shape: tuple[int, int]) -> None:
        """Declare which entries of a matrix the values of a vector are.

        Args:
            param: values [k].
            indices: their positions in the flattened matrix [k]. The tensor is kept by reference, so that
                in-place changes take effect.
            shape: shape of the matrix.
        """
        self._layouts[param] = (indices, shape)

    def get_accumulators(self, param: Tensor) -> list[Tensor]:
        """Return the accumulators, one an axis; zeros before the first step."""
        state = self.state[param]
        shape = self._layouts[param][1] if param in self._layouts else param.shape
        for axis, size in enumerate(shape):
            if f"axis_{axis}" not in state:
                state[f"axis_{axis}"] = torch.zeros(size, device=param.device)
        return [state[f"axis_{axis}"] for axis in range(len(shape))]

    @torch.no_grad()
    def forget(self, param: Tensor, slots: Tensor) -> None:
        """Reset the momentum of the values at `slots`, int64 [n], which now belong to other entries."""
        if "momentum" in self.state[param]:
            self.state[param]["momentum"].view(-1)[slots] = 0.0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with every parameter that has a gradient."""
        loss = evaluate_closure(closure)
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad.float(), group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, to the bit."""
        super().load_state_dict(state_dict)
        load_exactly(self, state_dict)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        accumulators, state = self.get_accumulators(param), self.state[param]
        accumulate = (
            _update_sparse_accumulators if param in self._layouts else _update_dense_accumulators
        )
        second = accumulate(grad, accumulators, *self._layouts.get(param, ()))
        update = grad * (second + group["eps"]).rsqrt()
        if group["momentum"]:
            kept = state.setdefault("momentum", torch.zeros_like(update))
            update = kept.mul_(group["momentum"]).add_(update, alpha=1 - group["momentum"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_(update.to(param.dtype), alpha=group["lr"])


def _update_dense_accumulators(grad: Tensor, accumulators: list[Tensor]) -> Tensor:
    """Return the second moments of all entries, and set each accumulator to their maximum over the other axes."""
    if not accumulators:
        return grad.square()
    second = accumulators[0].view(_build_broadcast_shape(0, grad))
    for axis, accumulator in enumerate(accumulators[1:], 1):
        second = torch.minimum(second, accumulator.view(_build_broadcast_shape(axis, grad)))
    second = second + grad.square()
    for axis, accumulator in enumerate(accumulators):
        others = [other for other in range(grad.dim()) if other != axis]
        accumulator.copy_(second.amax(others) if others else second)
    return second


def _update_sparse_accumulators(
    grad: Tensor, accumulators: list[Tensor], indices: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Return the second moments of the entries [k]; accumulators of rows and columns without entries stay."""
    flat = indices.long()
    rows, columns = flat // shape[1], flat % shape[1]
    second = torch.minimum(accumulators[0][rows], accumulators[1][columns]) + grad.square()
    accumulators[0].scatter_reduce_(0, rows, second, "amax")
    accumulators[1].scatter_reduce_(0, columns, second, "amax")
    return second


def _build_broadcast_shape(axis: int, like: Tensor) -> list[int]:
    return [-1 if other == axis else 1 for other in range(like.dim())]
