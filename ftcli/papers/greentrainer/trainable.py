"""GreenTrainer: tensors are trained by importance within a budget of FLOPs (arXiv 2309.13192)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ftcli.core.errors import UserError
from ftcli.papers.greentrainer.costs import TensorCosts
from ftcli.papers.greentrainer.probe import measure_importance, record_costs
from ftcli.papers.greentrainer.solver import fill_budget, select_tensors
from ftcli.trainable.base import Trainable, activate
from ftcli.trainable.selection import Interval

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run


class GreenTrainer(Trainable):
    """Selects single tensors among the method's parameters such that a step costs `rho` of what all cost.

    Costs and importance are measured on a batch of training rows of their own; neither the data order nor
    the run's random numbers change. Every selection is an event `selected_tensors` of the run.

    Choices: `importance` is the paper's, the largest loss drop within the budget; `uniform` solves the same
    problem with importances drawn from [0, 1); `random` adds tensors in random order and `last` from
    the output on, as long as the budget allows.

    Args:
        rho: share of the FLOPs of a step that trains everything, forward pass included.
        interval_epochs: passes over the data between selections; null with `interval_steps`, or for one selection.
        interval_steps: optimizer steps between selections.
        choice: which tensors are trained.
        probe_rows: rows that costs and importance are measured on.
        buckets: parts of the budget that the solver rounds costs to.
        seed: of the probe's rows and of draws; null: the run's.
    """

    def __init__(
        self,
        rho: float = 0.5,
        interval_epochs: int | None = 2,
        interval_steps: int | None = None,
        choice: Literal["importance", "uniform", "random", "last"] = "importance",
        probe_rows: int = 4,
        buckets: int = 10_000,
        seed: int | None = None,
    ) -> None:
        if not 0 < rho <= 1:
            raise UserError(f"{rho:g} is no share of a step.", "trainable.rho", "trainable.rho=0.5")
        self.rho, self.choice, self.probe_rows = rho, choice, probe_rows
        self.every = Interval(interval_steps, interval_epochs)
        self.buckets, self.seed = buckets, seed
        self.active: list[
            str
        ] = []  # names of the selected tensors, in the order of the forward pass
        self.rounds = 0
        self._applied: list[str] | None = None

    def setup(self, run: Run) -> None:
        """Collect the parameters that the method trains.

        Raises:
            UserError: there are several processes, or the optimizer uses no gradient.
        """
        _refuse_processes(run)
        if not getattr(run.optimizer_builder.optimizer, "uses_backward", True):
            raise UserError(
                "trainable=greentrainer saves backward passes, and this optimizer has none.",
                where="optimizer",
                fix="optimizer=adamw",
            )
        self.candidates = {n: p for n, p in run.model.named_parameters() if p.requires_grad}
        self.active, self.rounds, self._applied = [], 0, None

    def before_step(self, state: State) -> None:
        """Select tensors when due, and apply a selection that is not applied yet, such as that of a checkpoint."""
        if self.every.is_due(state):
            self.active = self.select(state)
        if self.active != self._applied:
            self._activate(self.active)
            self._applied = list(self.active)

    def on_train_end(self, state: State) -> None:
        """Enable all parameters that the method trains."""
        self._activate(list(self.candidates))
        self._applied = None

    def select(self, state: State) -> list[str]:
        """Return the names of the tensors that are trained from this step on.

        Raises:
            UserError: the forward pass alone exceeds the budget, or no tensor fits into what it leaves.
        """
        batch = self._load_batch(state.run)
        costs = record_costs(state.run, batch)
        trained = costs.mask(self.candidates)
        budget = costs.compute_budget(self.rho, trained)
        affordable = costs.find_affordable(trained, budget)
        if not affordable.any():
            raise self._refuse_budget(costs, trained)
        selected = self._choose(state, batch, costs, affordable, budget)
        self.rounds += 1
        names = [name for name, on in zip(costs.names, selected, strict=True) if on]
        if state.run.dir is not None:
            share = costs.compute_step(selected) / costs.compute_step(trained)
            backward = costs.compute_backward(selected) / costs.compute_backward(trained)
            state.run.dir.append_event(
                "selected_tensors", step=state.step, share=round(share, 4),
                backward=round(backward, 4), tensors=names,
            )  # fmt: skip
        return names

    def state_dict(self) -> dict[str, Any]:
        """Return the selected tensors and the number of selections."""
        return {"active": self.active, "rounds": self.rounds}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step applies it."""
        self.active, self.rounds = list(saved["active"]), saved["rounds"]
        self._applied = None

    def _choose(
        self, state: State, batch: Any, costs: TensorCosts, affordable: Any, budget: float
    ) -> Any:
        """Return which tensors are selected, bool [N]."""
        allowed = np.flatnonzero(affordable)
        draws = np.random.default_rng([self._get_seed(state.run), self.rounds])
        if self.choice == "last":
            return fill_budget(allowed[::-1], costs, budget)
        if self.choice == "random":
            return fill_budget(draws.permutation(allowed), costs, budget)
        importance = np.zeros(len(costs.names))
        if self.choice == "uniform":
            importance[allowed] = draws.random(len(allowed))
        else:
            names = [costs.names[i] for i in allowed]
            importance[allowed] = self._measure_importance(state, batch, names)
        selected = select_tensors(importance, costs, budget, self.buckets)
        if not selected.any():
            raise UserError(
                f"the probe's step lowers the loss through no tensor (step {state.step}).",
                where="trainable.probe_rows",
                fix=f"trainable.probe_rows={4 * self.probe_rows}, or a smaller optimizer.lr",
            )
        return selected

    def _measure_importance(self, state: State, batch: Any, names: list[str]) -> list[float]:
        run, parameters = state.run, {name: self.candidates[name] for name in names}
        self._activate(names)
        self._applied = None
        factor = run.scheduler.factor(state.step, state.max_steps)
        return list(measure_importance(run, parameters, batch, factor).values())

    def _activate(self, names: list[str]) -> None:
        on, moving = [self.candidates[name] for name in names], set(names)
        activate(on, [p for name, p in self.candidates.items() if name not in moving])

    def _get_seed(self, run: Run) -> int:
        return run.seed if self.seed is None else self.seed

    def _load_batch(self, run: Run) -> dict[str, Any]:
        """Return the rows of this selection, a function of seed and number of selections."""
        loader = run.data.loader(
            "train", run.tokenizer, batch_size=self.probe_rows, seed=self._get_seed(run) + 1,
            shuffle=True,
        )  # fmt: skip
        epoch, place = divmod(self.rounds, len(loader))
        batch: dict[str, Any] = loader.batch(loader.list_batch_indices(epoch)[place])
        return batch

    def _refuse_budget(self, costs: TensorCosts, trained: Any) -> UserError:
        alone = (costs.path[::-1].cumsum()[::-1] + costs.own)[trained]
        share = (costs.forward + float(alone.min())) / costs.compute_step(trained)
        return UserError(
            f"{self.rho:g} of a step's FLOPs train no tensor: the forward pass and the cheapest one take {share:.3f}.",
            where="trainable.rho",
            fix=f"trainable.rho={min(1.0, share + 0.1):.2f}",
        )


def _refuse_processes(run: Run) -> None:
    count = run.accelerator.num_processes
    if count > 1:
        raise UserError(
            f"trainable=greentrainer changes which parameters have gradients, and {count} processes reduce "
            "gradients in groups that are fixed at the start.",
            where="trainable",
            fix="one process: ftcli train without -p",
        )
