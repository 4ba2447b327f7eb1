"""GaLore and Natural GaLore: Adam on gradients that are projected to a low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ftcli.optimizers.closure import evaluate_closure
from ftcli.papers.natural_galore.projection import NAMES, lift, project, refresh_projector


class GaLore(Optimizer):
    """Adam in a low-rank projection of each matrix's gradient; AdamW on all other tensors.

    Every `update_gap` steps the projector is computed from the gradient G [n, m] of that step (Zhao et
    al. 2024, arXiv 2403.03507, algorithm 2): `svd` keeps the leading `rank` singular vectors of the
    smaller side, so that R = P^T G or G P; `tucker` those of both sides, R = U^T G V [rank, rank]
    (for a matrix the truncated SVD is the best Tucker decomposition). Adam's moments have the shape
    of R and stay as they are when the projector changes. The step is lifted back and multiplied by
    `scale`. As in the published code eps is added before the bias correction.

    `transform=natural` (Das 2024, arXiv 2410.16029) first multiplies vec(R) by the inverse of
    damping * I + H H^T, where H holds the last `history` projected gradients, this one included. A
    `damping` far below |g|^2 removes the component that the gradient shares with those before it,
    which is the direction of descent where there is little noise.

    Args:
        params: parameters or (name, parameter) pairs, or groups of them with their own lr and
            weight_decay.
        targets: patterns of the names of matrices that are projected: those of the blocks.
        clear_on_refresh: clear the history when the projector changes, in whose basis it is. The
            published code does not, so that for `history` steps two bases are mixed.
    """

    takes_names = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        rank: int = 128,
        update_gap: int = 200,
        scale: float = 0.25,
        projector: Literal["svd", "tucker"] = "svd",
        transform: Literal["none", "natural"] = "none",
        history: int = 20,
        damping: float = 1e-3,
        clear_on_refresh: bool = True,
        targets: Sequence[str] = ("*layers.*", "*layer.*", "*blocks.*", "*block.*", "*.h.*"),
    ) -> None:
        _check_options(rank, update_gap, history, damping, projector, transform)
        self.rank, self.update_gap, self.scale, self.projector = rank, update_gap, scale, projector
        self.history = history if transform == "natural" else 0
        self.damping, self.clear_on_refresh, self.targets = damping, clear_on_refresh, targets
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": tuple(betas), "eps": eps}
        groups = [part for g in _as_groups(params) for part in self._split_group({**defaults, **g})]
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; returns the loss of the closure, if any."""
        loss = evaluate_closure(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_parameter(parameter, self.state[parameter], group)
        return loss

    def state_elements(self, parameter: Tensor) -> int:
        """Return the size of a parameter's state: projector, two moments of the projection, history."""
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        if not group["low_rank"]:
            return 2 * parameter.numel()
        small, large = sorted(parameter.shape)
        rank = min(self.rank, small)
        both = self.projector == "tucker"
        projected = rank * (rank if both else large)
        return rank * (small + large * both) + (2 + self.history) * projected

    def _step_parameter(
        self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state.setdefault("step", 0)
        if group["low_rank"]:
            if refresh_projector(state, gradient, self.rank, self.update_gap, self.projector):
                state["filled"] = 0 if self.clear_on_refresh else state.get("filled", 0)
            gradient = project(state, gradient)
            if self.history:
                gradient = self._apply_fisher_inverse(state, gradient)
        step = _adam_direction(state, gradient, group)
        if group["low_rank"]:
            step = lift(state, step) * self.scale
        parameter.add_(step, alpha=-group["lr"])
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])

    def _apply_fisher_inverse(self, state: dict[str, Any], gradient: Tensor) -> Tensor:
        """Write the gradient into the history, a ring buffer, and return F^{-1} g in its shape."""
        if "history" not in state:
            state["history"] = gradient.new_zeros(self.history, gradient.numel())
        if not state.setdefault("filled", 0):
            state["at"] = 0
        at = state["at"]
        state["history"][at] = gradient.flatten()
        state["filled"] = min(state["filled"] + 1, self.history)
        state["at"] = (at + 1) % self.history
        history = state["history"][: state["filled"]]
        return natural_gradient(history, at, self.damping).view_as(gradient)

    def _split_group(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a group of the projected parameters of a group, and one of the others."""
        pairs = [entry if isinstance(entry, tuple) else ("", entry) for entry in group["params"]]
        for low_rank in (True, False):
            selected = [p for name, p in pairs if self._is_target(name, p) == low_rank]
            if selected:
                yield {**group, "params": selected, "low_rank": low_rank}

    def _is_target(self, name: str, parameter: Tensor) -> bool:
        return parameter.dim() == 2 and any(fnmatchcase(name, t) for t in self.targets)


def natural_gradient(history: Tensor, index: int, damping: float) -> Tensor:
    """Return (damping I + H H^T)^{-1} h for one vector of H, by a system of the size of the history.

    Since h is in H, Woodbury's identity for (damping I + H H^T)^{-1} H is H (damping I + H^T H)^{-1},
    in which nothing cancels (in g / damping - H z / damping^2 nearly all does where |g|^2 is
    large). The small system is solved in float64.

    Args:
        history: [k, d], the columns of H as rows.
        index: position of h in `history`.

    Returns:
        [d], in the type of `history`.
    """
    exact = history.double()
    gram = exact @ exact.T
    gram.diagonal().add_(damping)
    unit = gram.new_zeros(len(gram), 1)
    unit[index] = 1
    factor = torch.linalg.cholesky_ex(
        gram
    ).L  # no error on values that are not finite: they stay so
    weights = torch.cholesky_solve(unit, factor)
    return (exact.T @ weights).squeeze(1).to(history.dtype)


def _adam_direction(state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Update the moments and return Adam's direction with bias correction, in the gradient's shape."""
    beta1, beta2 = group["betas"]
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(gradient)
        state["exp_avg_sq"] = torch.zeros_like(gradient)
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    state["step"] += 1
    mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    correction = sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
    return mean / square.sqrt().add_(group["eps"]) * correction


def _check_options(
    rank: int, update_gap: int, history: int, damping: float, projector: str, transform: str
) -> None:
    if min(rank, update_gap, history) < 1 or damping <= 0:
        raise ValueError("rank, update_gap, history and damping must be positive")
    if projector not in NAMES:
        raise ValueError(f"projector={projector}: one of {', '.join(NAMES)}")
    if transform not in ("none", "natural"):
        raise ValueError(f"transform={transform}: none or natural")


def _as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    items = list(params)
    return items if items and isinstance(items[0], dict) else [{"params": items}]
