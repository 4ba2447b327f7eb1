"""DEFT (arXiv 2402.01911): a differentiable surrogate of the count of active neurons in MLPs."""

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

    `a` is the output of the activation function of an MLP. Encoder and decoder are averaged each on
    their own and added. D is no density: h(a) is 1/2 at |a| = sqrt(eps), and its gradient,
    2 a eps / (a^2 + eps)^2, is close to 0 beyond a few sqrt(eps). The norm of that gradient is
    logged as `penalty.activation_density.gradient`. The density itself is measured by the evaluator
    `activation_density`.

    The official code counts padding tokens too and computes h in the precision of the activations;
    here padding (and soft prompts in front) is left out, and h is float32.

    Args:
        weight: the paper's alpha.
        eps: square of the |a| at which h is 1/2.
        tap: end of the activation modules' names; null: they are found by class.
    """

    eps: float = 1e-7
    tap: str | None = None
    _probes: Probes | None = field(default=None, init=False, repr=False)
    _tokens: RealTokens = field(default_factory=lambda: RealTokens({}), init=False, repr=False)
    _squared: Tensor | None = field(default=None, init=False, repr=False)

    def setup(self, run: Run) -> None:
        """Find the activation modules.

        Raises:
            UserError: the model has none, or its blocks are compiled, which may drop the hooks.
        """
        if run.trainer.compile:
            raise UserError(
                "hooks on activations may be left out of compiled blocks.",
                where="trainer.compile",
                fix="trainer.compile=false",
            )
        taps = mlp_activations(run.model, self.tap)
        self._roles = {tap.name: tap.role for tap in taps}
        self._encoder_decoder = is_encoder_decoder(run.model)
        self._probes = Probes({tap.name: tap.module for tap in taps}, self._measure)

    def begin(self, batch: dict[str, Any]) -> None:
        """Attach the hooks, and take the real tokens from the batch."""
        assert self._probes is not None, "call setup first"
        self._tokens = RealTokens(batch, self._encoder_decoder)
        self._probes.begin()

    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """Return D of the forward passes since `begin`.

        The hooks stay attached, because a recomputation in backward has to run them too.
        """
        assert self._probes is not None, "call setup first"
        sides: dict[str, list[Tensor]] = {}
        for name, values in self._probes.take().items():
            role = self._roles[name] if self._encoder_decoder else ""
            sides.setdefault(role, []).append(torch.stack(values).mean())
        return torch.stack([torch.stack(layers).mean() for layers in sides.values()]).sum()

    def size(self, batch: dict[str, Any]) -> float:
        """Return the number of real tokens of the micro-batch; of an encoder-decoder, of its inputs."""
        return float(batch["lengths" if "lengths" in batch else "attention_mask"].sum())

    def after_backward(self, state: State) -> None:
        """Remove the hooks."""
        self._detach_probes()

    def after_step(self, state: State) -> None:
        """Remove the hooks also where there was no backward."""
        self._detach_probes()

    def on_train_end(self, state: State) -> None:
        """Remove the hooks."""
        self._detach_probes()

    @property
    def gradient_norm(self) -> float:
        """Norm of the weighted penalty's gradient at the activations in the last step; 0 before it."""
        return 0.0 if self._squared is None else float(self._squared.sqrt())

    def before_step(self, state: State) -> None:
        """Reset the norm of the gradient, which is that of one step."""
        if self._squared is not None:
            self._squared.zero_()

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Log the norm of the gradient, which is known only after backward."""
        if state.run.dir is not None and state.run.accelerator.is_main_process:
            name = "penalty.activation_density.gradient"
            state.run.dir.append_metrics({"step": state.step, name: self.gradient_norm})

    def _detach_probes(self) -> None:
        if self._probes is not None:
            self._probes.end()
        self._tokens = RealTokens({})

    def _measure(self, name: str, values: Tensor) -> Tensor:
        real = self._tokens.mask(values, self._roles[name])
        if self._squared is None or self._squared.device != values.device:
            self._squared = torch.zeros((), device=values.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.weight != 0):
            total = _Surrogate.apply(values, real, self.eps, self._squared)
            return total / (real.sum() * values.shape[-1])


class _Surrogate(torch.autograd.Function):
    """Sum of h over the real tokens, float32; backward needs no tensor that the model does not keep."""

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
    """Return h(a) = a^2 / (a^2 + eps), the paper's surrogate of l0, in float32: 0 at 0, 1/2 at sqrt(eps)."""
    square = values.float().square()
    return square / (square + eps)
