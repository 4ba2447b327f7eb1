"""Early stopping: the run ends when a score has not improved for some evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ftcli.core.callback import Callback, State
from ftcli.core.errors import UserError
from ftcli.evaluation.scores import less_is_better

if TYPE_CHECKING:
    from ftcli.core.run import Run


STATE = ("best", "best_step", "last_step", "waited")


@dataclass
class EarlyStopping(Callback):
    """Ends training after `patience` evaluations in a row without a better score.

    A score s is better than the best so far, b, where b - s > min_delta (or s - b > min_delta where more is
    better). The evaluation before the first step counts as the first best. The run ends as at its last step:
    with a checkpoint, all evaluators and the artefact; the scheduler keeps the length that was configured.
    """

    score: str = "loss"  # name of a score, as in `eval.loss`; its evaluator must be periodic
    patience: int = 3  # evaluations without improvement after which the run ends
    min_delta: float = 0.0  # an improvement by no more than this does not count
    mode: Literal["auto", "min", "max"] = "auto"  # which is better; auto: by the metric
    best: float | None = field(init=False, default=None)
    best_step: int = field(init=False, default=0)
    last_step: int = field(init=False, default=-1)  # of the last evaluation that counted
    waited: int = field(init=False, default=0)

    def setup(self, run: Run) -> None:
        """Refuse a run that is never evaluated while it trains.

        Raises:
            UserError: there is no interval or no periodic evaluator, or a pipeline runs the steps.
        """
        if run.pipeline is not None:
            raise UserError(
                "early stopping is not supported in federated training.",
                where="callback",
                fix="~callback.early_stopping",
            )
        if not run.trainer.eval_every or not any(e.periodic for e in run.evaluators.values()):
            raise UserError(
                "early stopping needs scores while the run trains, and it is evaluated at its ends only.",
                where="callback",
                fix="trainer.eval_every=50 and eval=loss, or ~callback.early_stopping",
            )

    def on_evaluate(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Compare the score of an evaluation with the best so far.

        Only evaluations at the interval count, each step once, so that a run that goes on after its last
        step has counted as a longer one would have.

        Raises:
            UserError: the score was not measured.
        """
        if state.step % state.run.trainer.eval_every or state.step == self.last_step:
            return
        self.last_step = state.step
        name = f"eval.{self.score.removeprefix('eval.')}"
        if name not in metrics:
            raise self._missing_error(name, state, metrics)
        value = float(metrics[name])
        if self.best is None or self._is_better(value, name):
            self.best, self.best_step, self.waited = value, state.step, 0
        else:
            self.waited += 1

    def get_stop_reason(self) -> str | None:
        """Return the reason once the patience is used up."""
        if self.waited < self.patience:
            return None
        least = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return (
            f"{self.score} has not improved on {self.best:.6g} of step {self.best_step}{least} "
            f"for {self.waited} evaluations"
        )

    def _is_better(self, value: float, name: str) -> bool:
        assert self.best is not None
        less = less_is_better(name) if self.mode == "auto" else self.mode == "min"
        gain = self.best - value if less else value - self.best
        return gain > self.min_delta or (math.isnan(self.best) and not math.isnan(value))

    def _missing_error(self, name: str, state: State, metrics: Mapping[str, Any]) -> UserError:
        scores = ", ".join(key.removeprefix("eval.") for key in metrics if key.startswith("eval."))
        return UserError(
            f"there is no {name} at step {state.step} to stop by; measured there: {scores or 'nothing'}.",
            where="callback",
            fix="callback.early_stopping.score=NAME, or eval.<name>.periodic=true for its evaluator",
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its step, and the evaluations since."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in STATE:
            setattr(self, name, saved[name])
