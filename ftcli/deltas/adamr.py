"""AdamR (arXiv 2410.09344, section 5): Adam with a decoupled pull toward the pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer


class AdamR(Optimizer):
    """Before Adam's step, theta <- theta - lr * lambda / v_bar * (theta - theta_pre).

    v_bar is the root of the mean over all parameters of the bias-corrected second moment, one
    number for the whole model, so that the pull keeps its strength beside Adam's normalised step.
    Where it is 0, it counts as 1. theta_pre is what the weights are at the first step.

    Args:
        params: parameters, or groups of them.
        decay_to_pretrained: lambda; 0 is Adam.
        norm: l2 pulls by the distance, l1 by its sign.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay_to_pretrained: float = 0.1,
        norm: Literal["l2", "l1"] = "l2",
    ) -> None:
        super().__init__(params, {"lr": lr})
        self.betas, self.eps = tuple(betas), eps
        self.decay, self.norm = decay_to_pretrained, norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [(p, g["lr"]) for g in self.param_groups for p in g["params"] if p.grad is not None]
        for parameter, _ in moved:
            self._moments(parameter)
        pull = self.decay / self._size([parameter for parameter, _ in moved])
        for parameter, lr in moved:
            state = self.state[parameter]
            away = parameter - state["pretrained"]
            parameter.sub_(away.sign() if self.norm == "l1" else away, alpha=lr * pull)
            mean = state["exp_avg"] / (1 - self.betas[0] ** state["step"])
            parameter.sub_(lr * mean / (self._second(parameter).sqrt() + self.eps))
        return loss

    def _moments(self, parameter: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["pretrained"] = parameter.detach().clone()
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter) for _ in range(2))
        state["step"] += 1
        gradient = parameter.grad
        assert gradient is not None
        state["exp_avg"].lerp_(gradient, 1 - self.betas[0])
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - self.betas[1])

    def _second(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        return state["exp_avg_sq"] / (1 - self.betas[1] ** state["step"])

    def _size(self, parameters: list[Tensor]) -> float:
        """v_bar."""
        total = sum(self._second(p).double().sum() for p in parameters)
        count = sum(p.numel() for p in parameters)
        return float((total / max(count, 1)) ** 0.5) or 1.0
