"""Which trial comes next: the interface of all searches, and the grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.jobs.trial import read_finished_result
from ftcli.sweeps.importance import one_factor_shares
from ftcli.sweeps.plan import Plan
from ftcli.sweeps.space import Space
from ftcli.sweeps.trial import FINISHED, WAITING, Trial


@dataclass(frozen=True)
class Importance:
    """Key -> how much of the score's variation it explains, and the method that says so."""

    shares: dict[str, float]
    method: str


class Search(ABC):
    """Hands out trials and hears how they end.

    Attributes:
        trials: all trials known so far, by number.
        planned: how many there will be.
    """

    trials: list[Trial]
    planned: int

    @abstractmethod
    def next_trial(self) -> Trial | None:
        """The next trial: its folder holds its record, or it has ended already; None: no more now."""

    def should_prune(self, trial: Trial) -> bool:
        """Whether a running trial need not go on, by its scores so far."""
        return False

    def record_end(self, trial: Trial) -> None:
        """Hear the outcome of a trial."""

    @abstractmethod
    def importance(self) -> Importance:
        """How much each key matters, by the trials so far."""


class Grid(Search):
    """Every combination, in the order in which sweep.yaml lists them."""

    def __init__(self, plan: Plan, space: Space, folder: Path) -> None:
        self.trials = [_build_trial(number, kept, folder) for number, kept in enumerate(plan.grid)]
        self.planned, self._metric = len(self.trials), plan.metric
        self._queue = iter([trial for trial in self.trials if trial.status == WAITING])

    def next_trial(self) -> Trial | None:
        """The next one that has not finished; those that failed before are tried again."""
        return next(self._queue, None)

    def importance(self) -> Importance:
        """One-factor variance: exact on a grid."""
        return Importance(one_factor_shares(self.trials, self._metric), "one-factor variance")


def _build_trial(number: int, kept: dict[str, Any], folder: Path) -> Trial:
    trial = Trial(number, kept["point"], kept["overrides"], folder / kept["folder"])
    result = read_finished_result(trial.folder)
    if result is not None:
        trial.status, trial.result = FINISHED, result
    return trial
