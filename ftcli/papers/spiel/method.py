"""SpIEL (arXiv 2401.16405): sparse deltas whose support is dropped and grown while training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ftcli.config.classpath import ClassPath
from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.trainable.scores import top

#: Way to grow -> what the optimizer must be able to do, and the option that can.
NEEDS = {"ag": ("seed", "sparse_adamw"), "ma": ("covers", "sm3")}


@dataclass
class Candidates:
    """Entries of one matrix that may be grown, with what was seen of their gradients."""

    indices: Tensor  # positions in the flattened weight, int64 [k]
    total: Tensor  # sum of gradients, float32 [k]
    squares: Tensor  # sum of squared gradients, float32 [k]
    samples: int = 0  # micro-batches

    @classmethod
    def of(cls, gradient: Tensor, count: int) -> Candidates:
        """The `count` entries whose gradient is largest, in the first micro-batch of a phase."""
        indices = gradient.reshape(-1).abs().topk(count).indices
        zeros = torch.zeros(count, device=gradient.device)
        return cls(indices, zeros, zeros.clone())

    def see(self, gradient: Tensor) -> None:
        """Add the gradient of one micro-batch, of the whole weight."""
        own = gradient.reshape(-1)[self.indices].float()
        self.total += own
        self.squares += own.square()
        self.samples += 1


class SpIEL(Peft):
    """Deltas of k entries a matrix; every `reselect_every` steps the least changed ones move.

    Algorithm 1 of the paper. Dropped are the floor(k * p) deltas of smallest magnitude, where p is
    1 in the first phase (the random support of the start is replaced) and `drop_rate`, decaying to 0
    over the run, later. Grown are, in place of them,

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
        self._layers: dict[str, Any] = {}

    def setup(self, run: Any) -> None:
        """Give the optimizer what it needs to know of the deltas.

        Raises:
            UserError: it cannot do what this growth needs, phases overlap, or there are several
                processes, which would see different gradients (ag).
        """
        from ftcli.papers.spiel.tuner import SpIELLinear

        named = run.model.named_modules()
        self._layers = {name: m for name, m in named if isinstance(m, SpIELLinear)}
        optimizer, self._candidates = run.optimizer.optimizer, {}
        self._refuse(optimizer, run.accelerator.num_processes)
        for group in optimizer.param_groups:  # deltas are vectors, which otherwise have no decay
            group["weight_decay"] = run.optimizer.weight_decay
        if self.growth == "ma":
            for layer in self._layers.values():
                optimizer.layout(*_delta(layer), layer.shape)

    def before_step(self, state: State) -> None:
        """In the steps of a phase, look at the gradients of whole matrices."""
        step = state.step + 1
        looking = self.growth == "ag" and step % self.reselect_every <= self.accumulate_steps
        if step == 1 or step % self.reselect_every == 0:
            self._candidates = {}
        for name, layer in self._layers.items():
            layer.observer = self._observer(name, layer) if looking else None

    def after_step(self, state: State) -> None:
        """At the end of a phase, drop and grow."""
        due = state.step % self.reselect_every == self.accumulate_steps
        if self.growth == "fixed" or not due:
            return
        share, optimizer = self.share(state.step, state.max_steps), state.run.optimizer.optimizer
        accumulation = state.run.trainer.gradient_accumulation_steps
        for name, layer in self._layers.items():
            dropped = smallest(_delta(layer)[0], share)
            if self.growth == "ma":
                grow_by_momenta(layer, dropped, optimizer)
            elif name in self._candidates:  # a layer without part in the loss has none
                grow_by_gradients(layer, dropped, self._candidates[name], optimizer, accumulation)
        self._candidates = {}

    def share(self, step: int, last: int) -> float:
        """Share p of the deltas dropped by the phase that ends after this step."""
        if step == self.accumulate_steps:
            return 1.0
        done = step / last
        if self.drop_schedule == "linear":
            return self.drop_rate * (1 - done)
        return self.drop_rate * (1 + math.cos(math.pi * done)) / 2

    def state_dict(self) -> dict[str, Any]:
        """What an unfinished phase has seen."""
        return {name: vars(seen).copy() for name, seen in self._candidates.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on with that phase."""
        for name, seen in saved.items():
            device = self._layers[name].get_base_layer().weight.device
            kept = Candidates(**seen)
            for key in ("indices", "total", "squares"):
                setattr(kept, key, getattr(kept, key).to(device, copy=True))
            self._candidates[name] = kept

    def _observer(self, name: str, layer: Any) -> Any:
        @torch.no_grad()
        def observe(gradient: Tensor) -> None:
            if name not in self._candidates:
                self._candidates[name] = Candidates.of(gradient, len(_delta(layer)[0]))
            self._candidates[name].see(gradient)

        return observe

    def _refuse(self, optimizer: Any, processes: int) -> None:
        ability, option = NEEDS.get(self.growth, ("", ""))
        if ability and not callable(getattr(optimizer, ability, None)):
            raise UserError(
                f"method.growth={self.growth} grows deltas by state of the optimizer that "
                f"{type(optimizer).__name__} does not have.",
                where="optimizer",
                fix=f"optimizer={option}",
            )
        if self.accumulate_steps >= self.reselect_every - 1:
            raise UserError(
                f"a phase of {self.accumulate_steps} steps is not over when the next begins, "
                f"{self.reselect_every} steps after it.",
                where="method.accumulate_steps",
                fix=f"method.reselect_every={4 * self.accumulate_steps}",
            )
        if self.growth == "ag" and processes > 1:
            raise UserError(
                "candidates are judged by the gradients of one process.",
                where="method.growth",
                fix="method.growth=ma, or one process",
            )


def smallest(values: Tensor, share: float) -> Tensor:
    """Slots of the floor(k * share) values of smallest magnitude, the smallest first, int64."""
    return values.detach().abs().argsort(stable=True)[: int(len(values) * share)]


@torch.no_grad()
def grow_by_gradients(
    layer: Any, dropped: Tensor, seen: Candidates, optimizer: Any, accumulation: int
) -> None:
    """Replace dropped deltas by the candidates of largest |sum of gradients|.

    Candidates that are active and stay so are no candidates; one that was dropped is kept as it is.
    """
    values, indices = _delta(layer)
    leaving, stays = indices[dropped], torch.ones_like(values, dtype=torch.bool)
    stays[dropped] = False
    free = (~torch.isin(seen.indices, indices[stays])).nonzero().view(-1)
    order = seen.total[free].abs().argsort(descending=True, stable=True)
    best = free[order[: len(dropped)]]
    slots = dropped[~torch.isin(leaving, seen.indices[best])]
    best = best[~torch.isin(seen.indices[best], leaving)]
    slots = slots[: len(best)]
    _replace(layer, slots, seen.indices[best])
    (beta1, beta2), age = optimizer.param_groups[0]["betas"], seen.samples / accumulation
    mean, square = seen.total[best] / seen.samples, seen.squares[best] / seen.samples
    optimizer.seed(values, slots, mean * (1 - beta1**age), square * (1 - beta2**age), age)


@torch.no_grad()
def grow_by_momenta(layer: Any, dropped: Tensor, optimizer: Any) -> None:
    """Replace dropped deltas by the inactive entries of largest r_i * c_j."""
    values, indices = _delta(layer)
    rows, columns = optimizer.covers(values)
    score = torch.outer(rows, columns).view(-1)
    score[indices] = -1.0  # active ones, below every product
    slots = dropped[: score.numel() - len(indices)]
    if len(slots):
        _replace(layer, slots, top(score, len(slots)))
        optimizer.forget(values, slots)


def _replace(layer: Any, slots: Tensor, entries: Tensor) -> None:
    values, indices = _delta(layer)
    indices[slots] = entries.to(indices.dtype)
    values[slots] = 0.0


def _delta(layer: Any) -> tuple[Any, Tensor]:
    """Values [k] and their positions [k]."""
    return layer.spiel_values[ADAPTER], layer.spiel_indices[ADAPTER]
