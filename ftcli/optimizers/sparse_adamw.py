"""AdamW whose state covers only chosen entries of a tensor, or counts the steps of each entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ftcli.optimizers.closure import evaluate_closure

MOMENTS = ("exp_avg", "exp_avg_sq")


class SparseAdamW(Optimizer):
    """AdamW (arXiv 1711.05101) that can be restricted to some entries of a parameter.

    The moments of a restricted parameter are two float32 vectors with one value an entry, and no other
    entry ever changes (LIFT, arXiv 2506.00772, section 3). Steps are
    counted per tensor, or per entry after `seed` has set the ages of entries (SpIEL, arXiv
    2401.16405, section 3.1). Weight decay is decoupled and acts on the entries that are updated.

    Args:
        params: parameters, or groups of them.
        eps_before_correction: divide by sqrt(v) + eps and correct the bias of the quotient, as both
            papers do; otherwise correct the moments first, as torch.optim.AdamW does.
        master_weights: keep float32 copies of the updated entries of float16 and bfloat16 weights,
            in which small updates would be rounded away.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        eps_before_correction: bool = True,
        master_weights: bool = True,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "eps_before_correction": eps_before_correction,
                "master_weights": master_weights,
            },
        )

    @torch.no_grad()
    def restrict(self, param: Tensor, indices: Tensor | None) -> None:
        """Update only these entries from now on; None: all entries.

        Moments are kept for entries that were updated before, start at 0 for new ones, and are dropped
        for the others. The number of steps continues.

        Args:
            param: a contiguous parameter of this optimizer.
            indices: positions in the flattened parameter, ascending, int32 or int64 [k].

        Raises:
            ValueError: `indices` are not ascending positions of this parameter.
        """
        if indices is not None:
            _check(indices, param)
            indices = indices.to(param.device)
        state = self.state[param]
        if "step" not in state:
            self._begin(param, indices)
            return
        old = state.get("indices")
        for name in (*MOMENTS, "step", "master"):
            if name in state and state[name].dim() > 0:
                fill = param.detach() if name == "master" else None
                state[name] = _transfer_entries(state[name], old, indices, param, fill)
        if indices is None:
            state.pop("indices", None)
        else:
            state["indices"] = indices

    def support(self, param: Tensor) -> Tensor | None:
        """Return the entries that a parameter is restricted to, [k]; None if it is not."""
        return self.state[param].get("indices") if param in self.state else None

    @torch.no_grad()
    def seed(
        self, param: Tensor, slots: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, age: Tensor | float
    ) -> None:
        """Set moments and age of some entries as if they had been updated `age` times.

        Args:
            slots: positions in the (restricted or flattened) moments, int64 [n].
            exp_avg, exp_avg_sq: moments without bias correction, [n].
            age: number of updates; may be fractional.
        """
        state = self.state[param]
        if "step" not in state:
            self._begin(param, None)
        for name, moment in zip(MOMENTS, (exp_avg, exp_avg_sq), strict=True):
            state[name].view(-1)[slots] = moment.to(state[name].dtype)
        if state["step"].dim() == 0:
            state["step"] = torch.full_like(state["exp_avg"], float(state["step"]))
        state["step"].view(-1)[slots] = torch.as_tensor(age).to(state["step"])
        if "master" in state:
            state["master"].view(-1)[slots] = (
                _entries(param, state.get("indices")).view(-1)[slots].float()
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with every parameter that has a gradient."""
        loss = evaluate_closure(closure)
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, to the bit."""
        super().load_state_dict(state_dict)
        load_exactly(self, state_dict)
        for param, state in self.state.items():
            if "indices" in state:
                _check(state["indices"], param)

    def _begin(self, param: Tensor, indices: Tensor | None) -> None:
        state, group = self.state[param], self._group(param)
        if indices is not None:
            state["indices"] = indices
        entries = _entries(param.detach(), indices)
        state["step"] = torch.zeros(())
        for name in MOMENTS:
            state[name] = torch.zeros_like(entries, dtype=torch.float32)
        if group["master_weights"] and param.dtype in (torch.bfloat16, torch.float16):
            state["master"] = entries.float()

    def _update(self, param: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if "step" not in self.state[param]:
            self._begin(param, None)
        state, (beta1, beta2) = self.state[param], group["betas"]
        indices, (m, v) = state.get("indices"), (state[name] for name in MOMENTS)
        grad = _entries(gradient, indices).float()
        state["step"] += 1
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        age = state["step"] if state["step"].dim() else float(state["step"])
        first, root = 1 - beta1**age, (1 - beta2**age) ** 0.5
        if group["eps_before_correction"]:
            update = m / v.sqrt().add_(group["eps"]) * (root / first)
        else:
            update = m / first / (v.sqrt() / root).add_(group["eps"])
        values = state["master"] if "master" in state else _entries(param, indices).float()
        values.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
        if indices is not None:
            param.view(-1)[indices] = values.to(param.dtype)
        elif values is not param:
            param.copy_(values)

    def _group(self, param: Tensor) -> dict[str, Any]:
        for group in self.param_groups:
            if any(other is param for other in group["params"]):
                return group
        raise ValueError("the parameter is none of this optimizer's")


def load_exactly(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load saved state in its saved dtypes.

    torch casts all state to the parameter's dtype, which would round float32 moments of half-precision
    weights and turn positions into floats.
    """
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for key, param in zip(keys, params, strict=True):
        for name, value in saved["state"].get(key, {}).items():
            if isinstance(value, Tensor):
                scalar = (
                    value.dim() == 0
                )  # counters stay on the CPU, where reading them needs no synchronisation
                value = value.detach().clone().to("cpu" if scalar else param.device)
            optimizer.state[param][name] = value


def _entries(tensor: Tensor, indices: Tensor | None) -> Tensor:
    """Return the tensor itself, or a copy of some of its entries [k]."""
    return tensor if indices is None else tensor.reshape(-1)[indices]


def _transfer_entries(
    values: Tensor, old: Tensor | None, new: Tensor | None, param: Tensor, fill: Tensor | None
) -> Tensor:
    """Map values of the entries `old` (None: all) to the entries `new` (None: all).

    Args:
        fill: values of the parameter's shape for entries not in `old`; None: zeros.
    """
    if new is None:
        dense = torch.zeros_like(param, dtype=values.dtype) if fill is None else fill.to(values)
        dense = dense.clone()
        dense.view(-1)[... if old is None else old] = values.view(-1)
        return dense
    if old is None:
        return values.reshape(-1)[new]
    place = torch.searchsorted(old, new.to(old.dtype)).clamp_(max=len(old) - 1)
    other = torch.zeros_like(new, dtype=values.dtype) if fill is None else fill.view(-1)[new]
    return torch.where(old[place] == new, values[place], other.to(values))


def _check(indices: Tensor, param: Tensor) -> None:
    if indices.dtype not in (torch.int32, torch.int64) or indices.dim() != 1 or not len(indices):
        raise ValueError(f"positions are integers [k], k > 0; got {indices.dtype}, {indices.shape}")
    if not param.is_contiguous():
        raise ValueError("only contiguous parameters can be restricted")
    inside = 0 <= int(indices[0]) and int(indices[-1]) < param.numel()
    if not inside or not bool((indices[1:] > indices[:-1]).all()):
        raise ValueError(f"positions do not ascend between 0 and {param.numel()}")
