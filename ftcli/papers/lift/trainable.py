"""LIFT (arXiv 2506.00772): only the principal weights of each matrix are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy, Linear
from ftcli.optimizers.state import require_method
from ftcli.trainable import scores
from ftcli.trainable.base import Trainable, activate

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run


@dataclass
class Lift(Trainable):
    """Trains the k = min((m + n) * rank, m * n) entries of each m x n matrix that score highest.

    Matrices are the linear layers among the method's parameters; the head, embeddings, norms and
    biases stay as they are. The optimizer keeps moments for the chosen entries alone, and their
    positions. Entries are chosen again at the end of every step s with (s + 1) % interval == 0, from
    the weights after that step: moments of entries that stay are kept, others start at zero.
    Weight decay acts on the chosen entries; in the authors' code it has no effect.

    Scores: `lift` is the magnitude after reduction to `filter_rank` (the paper's principal weights),
    `weight` the magnitude as it is, `grad` that of the step's gradient, `movement` minus the sum
    of weight * gradient so far (arXiv 2005.07683), `random` a draw. Scores that need a gradient are
    first taken in the first step, before the optimizer moves anything.
    """

    rank: int = 128  # as many entries as a LoRA of this rank has parameters
    score: Literal["lift", "weight", "grad", "movement", "random"] = "lift"  # which entries matter
    filter_rank: int = 64  # rank of the approximation whose largest entries are trained (lift)
    interval: int | None = 400  # steps between choices of the entries; null: chosen once
    svd: Literal["exact", "lowrank"] = "exact"  # lowrank: randomised, fast on large matrices
    seed: int = 0  # of randomised choices
    _targets: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False)
    _others: list[nn.Parameter] = field(default_factory=list, init=False, repr=False)
    _sums: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _chosen: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def setup(self, run: Run) -> None:
        """Find the matrices, and choose their entries where the score needs no gradient.

        Raises:
            UserError: no linear layer is trained, or the optimizer cannot be restricted.
        """
        self._targets = {
            f"{linear.name}.weight": _get_weight(linear) for linear in find_targets(run.model)
        }
        if not self._targets:
            raise UserError(
                "trainable=lift finds no linear layer among the trained parameters.",
                where="method",
                fix="method=full method.train=null",
            )
        chosen = {id(parameter) for parameter in self._targets.values()}
        candidates = [p for p in run.model.parameters() if p.requires_grad]
        self._others = [p for p in candidates if id(p) not in chosen]
        self._get_optimizer(run)
        if self.score in scores.OF_WEIGHTS:
            self._restrict_optimizer(run, self._choose_entries(0))

    def before_step(self, state: State) -> None:
        """Freeze all parameters but the matrices."""
        activate(self._targets.values(), self._others)

    def after_backward(self, state: State) -> None:
        """Compute scores that need gradients, before the optimizer step changes the weights."""
        if self.score in scores.OF_WEIGHTS:
            return
        if self.score == "movement":
            for name, parameter in self._targets.items():
                moved = -parameter.detach().float() * _get_gradient(parameter)
                self._sums[name] = self._sums[name] + moved if name in self._sums else moved
        optimizer = self._get_optimizer(state.run)
        if any(optimizer.support(p) is None for p in self._targets.values()):
            self._restrict_optimizer(state.run, self._choose_entries(state.step))
        elif self._is_due(state.step + 1):
            self._chosen = self._choose_entries(state.step + 1)

    def after_step(self, state: State) -> None:
        """Choose the entries again at the end of an interval."""
        if self._is_due(state.step) and state.step < state.max_steps:
            chosen, self._chosen = self._chosen, {}
            self._restrict_optimizer(state.run, chosen or self._choose_entries(state.step))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the movement score; the optimizer saves the chosen entries."""
        return {"sums": dict(self._sums)} if self._sums else {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the sums of the movement score."""
        device = next(iter(self._targets.values())).device
        self._sums = {name: total.to(device) for name, total in saved["sums"].items()}

    def _is_due(self, step: int) -> bool:
        return self.interval is not None and (step + 1) % self.interval == 0

    @torch.no_grad()
    def _choose_entries(self, step: int) -> dict[str, Tensor]:
        """Return the chosen entries of each matrix by name, positions in ascending order [k]."""
        return {
            name: scores.find_top(
                self._score_entries(name, index, step), budget(parameter, self.rank)
            )
            for index, (name, parameter) in enumerate(self._targets.items())
        }

    def _score_entries(self, name: str, index: int, step: int) -> Tensor:
        parameter = self._targets[name]
        seed = (self.seed * 1_000_003 + step) * 1_000_003 + index
        if self.score == "lift":
            return scores.approximate_low_rank(
                parameter, self.filter_rank, self.svd == "lowrank", seed
            ).abs()
        if self.score == "weight":
            return parameter.abs()
        if self.score == "random":
            return scores.draw_random(parameter, seed)
        return self._sums[name] if self.score == "movement" else _get_gradient(parameter).abs()

    def _restrict_optimizer(self, run: Run, chosen: dict[str, Tensor]) -> None:
        optimizer = self._get_optimizer(run)
        for name, indices in chosen.items():
            optimizer.restrict(self._targets[name], indices)

    def _get_optimizer(self, run: Run) -> Any:
        return require_method(run.optimizer_builder.optimizer, "restrict", "trainable=lift")


def find_targets(model: nn.Module) -> list[Linear]:
    """Return the linear layers that LIFT trains: those with a trainable weight, without the head."""
    anatomy = Anatomy(model)
    head = anatomy.head[1] if anatomy.head else None
    return [
        linear
        for linear in anatomy.linears
        if linear.module is not head and _get_weight(linear).requires_grad
    ]


def budget(matrix: Tensor, rank: int) -> int:
    """Return how many entries of a matrix are trained: those of a LoRA of this rank, at most all."""
    return min(sum(matrix.shape) * rank, matrix.numel())


def count_entries(model: nn.Module, rank: int) -> int:
    """Return how many entries of a whole model are trained; also on the meta device."""
    return sum(budget(_get_weight(linear), rank) for linear in find_targets(model))


def _get_weight(linear: Linear) -> Any:
    return linear.module.weight


def _get_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient in float32; zeros where the loss does not depend on the matrix."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.float()
