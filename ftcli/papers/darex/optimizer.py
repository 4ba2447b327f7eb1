"""AdamR (arXiv 2410.09344, section 5): Adam with a decoupled pull toward the pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ftcli.optimizers.closure import evaluate_closure


class AdamR(Optimizer):
    """AdamW with a pull towards the pretrained weights, which is applied before Adam's step.

    theta <- theta - lr * lambda / v_bar * (theta - theta_pre).

    v_bar is the root of the mean over all parameters of the bias-corrected second moment, one
    number for the whole model, so that the pull keeps its strength beside Adam's normalised step.
    Where it is 0, it counts as 1. theta_pre is the value of a parameter at its first step, and part of
    its state: one more copy of the trained parameters, taken again where the state is dropped.

    Args:
        params: parameters, or groups of them.
        weight_decay: decoupled and toward zero, as AdamW's; the paper has none.
        decay_to_pretrained: lambda; 0 is Adam.
        norm: l2 pulls by the distance, l1 by its sign.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay_to_pretrained: float = 0.1,
        norm: Literal["l2", "l1"] = "l2",
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.betas, self.eps = tuple(betas), eps
        self.decay, self.norm = decay_to_pretrained, norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns the loss of the closure, if any."""
        loss = evaluate_closure(closure)
        pairs = [(p, g) for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not pairs:
            return loss
        for parameter, _ in pairs:
            self._update_moments(parameter)
        pull = self.decay / self._root_mean_second_moment([parameter for parameter, _ in pairs])
        for parameter, group in pairs:
            self._update_parameter(parameter, group["lr"], group["weight_decay"], pull)
        return loss

    def _update_parameter(
        self, parameter: Tensor, lr: float, weight_decay: float, pull: Tensor
    ) -> None:
        state = self.state[parameter]
        change = parameter - state["pretrained"]
        change = change.sign() if self.norm == "l1" else change
        parameter.addcmul_(change, (lr * pull).to(parameter.dtype), value=-1)
        parameter.mul_(1 - lr * weight_decay)
        mean = state["exp_avg"] / (1 - self.betas[0] ** state["step"])
        parameter.sub_(lr * mean / (self._corrected_second_moment(parameter).sqrt() + self.eps))

    def _update_moments(self, parameter: Tensor) -> None:
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

    def _corrected_second_moment(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        return state["exp_avg_sq"] / (1 - self.betas[1] ** state["step"])

    def _root_mean_second_moment(self, parameters: list[Tensor]) -> Tensor:
        """Return v_bar, float64; it stays on the device, so that no step waits for it."""
        total = torch.stack(
            [self._corrected_second_moment(p).double().sum() for p in parameters]
        ).sum()
        root = (total / sum(p.numel() for p in parameters)).sqrt()
        return torch.where(root == 0, torch.ones_like(root), root)
