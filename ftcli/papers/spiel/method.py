"""SpIEL (arXiv 2401.16405): sparse deltas whose support is dropped and grown while training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from ftcli.config.classpath import ClassPath
from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.trainable.scores import find_top

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.optimizers.sm3 import SM3
    from ftcli.optimizers.sparse_adamw import SparseAdamW
    from ftcli.papers.spiel.tuner import SpIELLinear

#: Growth -> the method that the optimizer must have, and an option that has it.
NEEDS = {"ag": ("seed", "sparse_adamw"), "ma": ("get_accumulators", "sm3")}


@dataclass
class Candidates:
    """Entries of one matrix that may be grown, with the sums of their gradients."""

    indices: Tensor  # positions in the flattened weight, int64 [k]
    total: Tensor  # sum of gradients, float32 [k]
    squares: Tensor  # sum of squared gradients, float32 [k]
    samples: int = 0  # micro-batches

    @classmethod
    def from_gradient(cls, gradient: Tensor, count: int) -> Candidates:
        """Return the `count` entries of largest gradient in the first micro-batch of a phase."""
        indices = gradient.reshape(-1).abs().topk(count).indices
        zeros = torch.zeros(count, device=gradient.device)
        return cls(indices, zeros, zeros.clone())

    def add_gradient(self, gradient: Tensor) -> None:
        """Add the gradient of one micro-batch; `gradient` is that of the whole weight."""
        values = gradient.reshape(-1)[self.indices].float()
        self.total += values
        self.squares += values.square()
        self.samples += 1


class SpIEL(Peft):
    """Deltas of k entries a matrix; every `reselect_every` steps the smallest ones are replaced.

    Algorithm 1 of the paper. A phase drops the floor(k * p) deltas of smallest magnitude, where p is
    1 in the first phase (the random support of the start is replaced) and `drop_rate`, decaying to 0
    over the run, later. In their place it grows

        ag   the candidates of largest |sum of gradients| over `accumulate_steps` steps, with Adam
             moments seeded from those gradients (section 3.1, accumulated gradients)
        ma   the entries of largest r_i * c_j, the accumulators of SM3 (momentum approximation)

    As in the authors' code a phase ends after step m * reselect_every + accumulate_steps, and the
    gradients it judges by begin with step m * reselect_every, or with step 1. Gradients are those
    of micro-batches: with accumulation each holds its share of the step's. Weight decay acts on the
    deltas, so it pulls towards the pretrained weights; that is why it may be as large as 30.
    A grown entry's bias correction counts the steps whose gradients its moments hold; in the authors' code
    it is one step behind.

    Args:
        growth: ag, ma, or fixed: the random support stays.
        reselect_every: steps from one reselection to the next.
        accumulate_steps: steps whose gradients decide (ag).
        drop_rate: share of deltas dropped in the second phase, were it at step 0.
        drop_schedule: how that share decays to 0 at the last step.
        config_class: the tuner's configuration, or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: deltas in float32 also where the base has half precision.
    """

    averageable = False  # entries change while it trains
    formula: ClassVar[str] = "floor(budget * numel / sum of numels) a matrix"

    def __init__(
        self,
        growth: Literal["ag", "ma", "fixed"] = "ag",
        reselect_every: int = 20,
        accumulate_steps: int = 5,
        drop_rate: float = 0.2,
        drop_schedule: Literal["linear", "cosine"] = "linear",
        config_class: ClassPath = "ftcli.papers.spiel.tuner.SpIELConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        self.growth, self.drop_rate, self.drop_schedule = growth, drop_rate, drop_schedule
        self.reselect_every, self.accumulate_steps = reselect_every, accumulate_steps
        self._candidates: dict[str, Candidates] = {}
        self._layers: dict[str, SpIELLinear] = {}

    def setup(self, run: Run) -> None:
        """Find the layers and pass weight decay and the layout of the deltas to the optimizer.

        Raises:
            UserError: the optimizer lacks the method that this growth needs, phases overlap, or
                there are several processes, which would see different gradients (ag).
        """
        from ftcli.papers.spiel.tuner import SpIELLinear

        named = run.model.named_modules()
        self._layers = {name: m for name, m in named if isinstance(m, SpIELLinear)}
        optimizer, self._candidates = run.optimizer_builder.optimizer, {}
        self._check_options(optimizer, run.accelerator.num_processes)
        for group in optimizer.param_groups:  # deltas are vectors, which otherwise have no decay
            group["weight_decay"] = run.optimizer_builder.weight_decay
        if self.growth == "ma":
            for layer in self._layers.values():
                optimizer.set_layout(*_get_delta(layer), layer.shape)

    def before_step(self, state: State) -> None:
        """Observe the gradients of whole matrices in the steps of a phase."""
        step = state.step + 1
        in_phase = self.growth == "ag" and step % self.reselect_every <= self.accumulate_steps
        if step == 1 or step % self.reselect_every == 0:
            self._candidates = {}
        for name, layer in self._layers.items():
            layer.observer = self._make_observer(name, layer) if in_phase else None

    def after_step(self, state: State) -> None:
        """Drop deltas and grow others in their place, at the end of a phase."""
        due = state.step % self.reselect_every == self.accumulate_steps
        if self.growth == "fixed" or not due:
            return
        share, optimizer = (
            self.drop_share(state.step, state.max_steps),
            state.run.optimizer_builder.optimizer,
        )
        accumulation = state.run.trainer.gradient_accumulation_steps
        for name, layer in self._layers.items():
            dropped = select_smallest(_get_delta(layer)[0], share)
            if self.growth == "ma":
                grow_by_momenta(layer, dropped, optimizer)
            elif name in self._candidates:  # a layer that the loss does not depend on has none
                grow_by_gradients(layer, dropped, self._candidates[name], optimizer, accumulation)
        self._candidates = {}

    def drop_share(self, step: int, last: int) -> float:
        """Return p, the share of the deltas that the phase ending after this step drops."""
        if step == self.accumulate_steps:
            return 1.0
        done = step / last
        if self.drop_schedule == "linear":
            return self.drop_rate * (1 - done)
        return self.drop_rate * (1 + math.cos(math.pi * done)) / 2

    def state_dict(self) -> dict[str, Any]:
        """Return the candidates of an unfinished phase, by layer."""
        return {name: vars(item).copy() for name, item in self._candidates.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the candidates of an unfinished phase."""
        for name, fields in saved.items():
            device = self._layers[name].get_base_layer().weight.device
            candidates = Candidates(**fields)
            for key in ("indices", "total", "squares"):
                setattr(candidates, key, getattr(candidates, key).to(device, copy=True))
            self._candidates[name] = candidates

    def _make_observer(self, name: str, layer: SpIELLinear) -> Callable[[Tensor], None]:
        @torch.no_grad()
        def observe(gradient: Tensor) -> None:
            if name not in self._candidates:
                self._candidates[name] = Candidates.from_gradient(
                    gradient, len(_get_delta(layer)[0])
                )
            self._candidates[name].add_gradient(gradient)

        return observe

    def _check_options(self, optimizer: Any, processes: int) -> None:
        ability, option = NEEDS.get(self.growth, ("", ""))
        if ability and not callable(getattr(optimizer, ability, None)):
            raise UserError(
                f"method.growth={self.growth} needs optimizer state that "
                f"{type(optimizer).__name__} does not have.",
                where="optimizer",
                fix=f"optimizer={option}",
            )
        if self.accumulate_steps >= self.reselect_every - 1:
            raise UserError(
                f"a phase of {self.accumulate_steps} steps is not over when the next begins: "
                f"phases begin every {self.reselect_every} steps.",
                where="method.accumulate_steps",
                fix=f"method.reselect_every={4 * self.accumulate_steps}",
            )
        if self.growth == "ag" and processes > 1:
            raise UserError(
                f"method.growth=ag chooses entries by the gradients of one process, and this run "
                f"has {processes}.",
                where="method.growth",
                fix="method.growth=ma, or one process",
            )


def select_smallest(values: Tensor, share: float) -> Tensor:
    """Return the slots of the floor(k * share) values of smallest magnitude, ascending, int64."""
    return values.detach().abs().argsort(stable=True)[: int(len(values) * share)]


@torch.no_grad()
def grow_by_gradients(
    layer: SpIELLinear,
    dropped: Tensor,
    seen: Candidates,
    optimizer: SparseAdamW,
    accumulation: int,
) -> None:
    """Replace dropped deltas by the candidates of largest |sum of gradients|.

    Candidates whose delta is active and not dropped are left out; one whose delta was dropped, and
    is chosen again, keeps its value and moments.

    Args:
        dropped: slots of the deltas to replace, int64.
        seen: the layer's candidates.
        accumulation: micro-batches of an optimizer step.
    """
    values, indices = _get_delta(layer)
    leaving, active = indices[dropped], torch.ones_like(values, dtype=torch.bool)
    active[dropped] = False
    free = (~torch.isin(seen.indices, indices[active])).nonzero().view(-1)
    order = seen.total[free].abs().argsort(descending=True, stable=True)
    best = free[order[: len(dropped)]]
    slots = dropped[~torch.isin(leaving, seen.indices[best])]
    best = best[~torch.isin(seen.indices[best], leaving)]
    slots = slots[: len(best)]
    _replace_entries(layer, slots, seen.indices[best])
    (beta1, beta2), age = optimizer.param_groups[0]["betas"], seen.samples / accumulation
    mean, square = seen.total[best] / seen.samples, seen.squares[best] / seen.samples
    optimizer.seed(values, slots, mean * (1 - beta1**age), square * (1 - beta2**age), age)


@torch.no_grad()
def grow_by_momenta(layer: SpIELLinear, dropped: Tensor, optimizer: SM3) -> None:
    """Replace dropped deltas by the inactive entries of largest r_i * c_j."""
    values, indices = _get_delta(layer)
    rows, columns = optimizer.get_accumulators(values)
    score = torch.outer(rows, columns).view(-1)
    score[indices] = -1.0  # below every product, so that no active entry is chosen
    slots = dropped[: score.numel() - len(indices)]
    if len(slots):
        _replace_entries(layer, slots, find_top(score, len(slots)))
        optimizer.forget(values, slots)


def _replace_entries(layer: SpIELLinear, slots: Tensor, entries: Tensor) -> None:
    values, indices = _get_delta(layer)
    indices[slots] = entries.to(indices.dtype)
    values[slots] = 0.0


def _get_delta(layer: SpIELLinear) -> tuple[Any, Tensor]:
    """Return the values [k] of a layer's deltas and their positions [k]."""
    return layer.spiel_values[ADAPTER], layer.spiel_indices[ADAPTER]
