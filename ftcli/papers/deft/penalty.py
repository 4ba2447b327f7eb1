"""DEFT (arXiv 2402.01911): a differentiable count of the active neurons inside MLPs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.core.hooks import Probes
from ftcli.objectives.base import Losses
from ftcli.papers.deft.activations import RealTokens, is_encoder_decoder, mlp_activations
from ftcli.penalties.base import Penalty

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ftcli.core.run import Run


@dataclass
class ActivationDensity(Penalty):
    """D = mean over layers, real tokens and neurons of h(a) = a^2 / (a^2 + eps), the paper's l0 surrogate.

    `a` is what the activation function of an MLP gives. Encoder and decoder are averaged each on
    their own and added. D is no density: h(a) is 1/2 at |a| = sqrt(eps), and its gradient,
    2 a eps / (a^2 + eps)^2, moves next to nothing beyond a few sqrt(eps). The norm of that gradient is
    logged as `penalty.activation_density.gradient`. What is active is measured by the evaluator
    `activation_density`.

    The official code counts padding tokens too and computes h in the precision of the activations;
    here padding (and soft prompts in front) is left out, and h is float32.

    Args:
        weight: the paper's alpha.
        eps: where h rises.
        tap: the end of the names of the activation modules; null finds them by their class.
    """

    eps: float = 1e-7
    tap: str | None = None
    _probes: Probes | None = field(default=None, init=False, repr=False)
    _tokens: RealTokens = field(default_factory=lambda: RealTokens({}), init=False, repr=False)
    _squared: Tensor | None = field(default=None, init=False, repr=False)

    def setup(self, run: Run) -> None:
        """Find the activations.

        Raises:
            UserError: there are none, or blocks are compiled, which may leave taps out.
        """
        if run.trainer.compile:
            raise UserError(
                "taps on activations may be left out of compiled blocks.",
                where="trainer.compile",
                fix="trainer.compile=false",
            )
        taps = mlp_activations(run.model, self.tap)
        self._roles = {tap.name: tap.role for tap in taps}
        self._two_sided = is_encoder_decoder(run.model)
        self._probes = Probes({tap.name: tap.module for tap in taps}, self._read)

    def begin(self, batch: dict[str, Any]) -> None:
        """Taps on."""
        assert self._probes is not None, "setup comes first"
        self._tokens = RealTokens(batch, self._two_sided)
        self._probes.begin()

    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """D of what passed since `begin`.

        The taps stay on: a recomputation in backward must meet them.
        """
        assert self._probes is not None, "setup comes first"
        found = self._probes.take()
        sides: dict[str, list[Tensor]] = {}
        for name, readings in found.items():
            role = self._roles[name] if self._two_sided else ""
            sides.setdefault(role, []).append(torch.stack(readings).mean())
        return torch.stack([torch.stack(layers).mean() for layers in sides.values()]).sum()

    def size(self, batch: dict[str, Any]) -> float:
        """Real tokens of the micro-batch; of an encoder-decoder, those of its inputs."""
        return float(batch["lengths" if "lengths" in batch else "attention_mask"].sum())

    def after_backward(self, state: State) -> None:
        """Taps off."""
        self._end()

    def after_step(self, state: State) -> None:
        """Taps off also where there was no backward."""
        self._end()

    def on_train_end(self, state: State) -> None:
        """Taps off."""
        self._end()

    @property
    def gradient_norm(self) -> float:
        """Norm of the weighted penalty's gradient at the activations, over the last step; 0 before it."""
        return 0.0 if self._squared is None else float(self._squared.sqrt())

    def before_step(self, state: State) -> None:
        """Count the gradient of this step alone."""
        if self._squared is not None:
            self._squared.zero_()

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Log the norm of the gradient, which exists only after backward."""
        if state.run.dir is not None and state.run.accelerator.is_main_process:
            name = "penalty.activation_density.gradient"
            state.run.dir.log({"step": state.step, name: self.gradient_norm})

    def _end(self) -> None:
        if self._probes is not None:
            self._probes.end()
        self._tokens = RealTokens({})

    def _read(self, name: str, values: Tensor) -> Tensor:
        real = self._tokens.mask(values, self._roles[name])
        if self._squared is None or self._squared.device != values.device:
            self._squared = torch.zeros((), device=values.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.weight != 0):
            total = _Surrogate.apply(values, real, self.eps, self._squared)
            return total / (real.sum() * values.shape[-1])


class _Surrogate(torch.autograd.Function):
    """Sum of h over the real tokens, float32. Saves nothing that the model does not hold already."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, real: Tensor, eps: float, squared: Tensor) -> Tensor:
        ctx.save_for_backward(values, real)
        ctx.eps, ctx.squared = eps, squared
        return (density_surrogate(values, eps) * real[..., None]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        values, real = ctx.saved_tensors
        a = values.float()
        slope = 2 * ctx.eps * a / (a.square() + ctx.eps).square()
        slope = slope * (gradient * real[..., None])
        ctx.squared += slope.square().sum()
        return slope.to(values.dtype), None, None, None


def density_surrogate(values: Tensor, eps: float = 1e-7) -> Tensor:
    """h(a) = a^2 / (a^2 + eps), float32: 0 at 0, 1/2 at sqrt(eps), 1 far from it (the paper's equation for l0)."""
    square = values.float().square()
    return square / (square + eps)
