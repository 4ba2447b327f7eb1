"""Searches that choose the next trial: the interface, the grid, and how much each key matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ftcli.jobs.trial import read_finished_result
from ftcli.sweeps.plan import Plan
from ftcli.sweeps.space import Space
from ftcli.sweeps.trial import FINISHED, WAITING, Trial


@dataclass(frozen=True)
class Importance:
    """Share of the score's variance that each key explains, and the method of estimation."""

    shares: dict[str, float]
    method: str


class Search(ABC):
    """Chooses trials and records how they end.

    Attributes:
        trials: all trials so far, by number.
        planned: number of trials that will be made.
    """

    trials: list[Trial]
    planned: int

    @abstractmethod
    def next_trial(self) -> Trial | None:
        """Return the next trial, with its record written or already ended; None when there is no further trial."""

    def should_prune(self, trial: Trial) -> bool:
        """Whether to stop a running trial, by its scores so far."""
        return False

    def record_end(self, trial: Trial) -> None:
        """Record the outcome of a trial."""

    @abstractmethod
    def importance(self) -> Importance:
        """Return the importance of each key, from the trials so far."""


class Grid(Search):
    """Every combination, in the order in which sweep.yaml lists them."""

    def __init__(self, plan: Plan, space: Space, folder: Path) -> None:
        self.trials = [_build_trial(number, kept, folder) for number, kept in enumerate(plan.grid)]
        self.planned, self._metric = len(self.trials), plan.metric
        self._queue = iter([trial for trial in self.trials if trial.status == WAITING])

    def next_trial(self) -> Trial | None:
        """Return the next unfinished trial; trials that failed in an earlier process are run again."""
        return next(self._queue, None)

    def importance(self) -> Importance:
        """Return one-factor variance shares, which are exact on a grid."""
        return Importance(one_factor_shares(self.trials, self._metric), "one-factor variance")


def _build_trial(number: int, kept: dict[str, Any], folder: Path) -> Trial:
    trial = Trial(number, kept["point"], kept["overrides"], folder / kept["folder"])
    result = read_finished_result(trial.folder)
    if result is not None:
        trial.status, trial.result = FINISHED, result
    return trial


def one_factor_shares(trials: Sequence[Trial], metric: str) -> dict[str, float]:
    """Return the share of the score's variance that the means over each key's values explain, 0 to 1.

    On a full grid these are the main effects of functional ANOVA (Hutter et al. 2014); the rest to 1 is
    the interaction of keys. Empty where there is no variance.
    """
    scored = [
        (trial.point, score)
        for trial in trials
        if trial.status == FINISHED and (score := trial.score(metric)) is not None
    ]
    if not scored:
        return {}
    mean = fmean(score for _, score in scored)
    total = sum((score - mean) ** 2 for _, score in scored)
    if total == 0:
        return {}
    return {key: _sum_between_groups(scored, key, mean) / total for key in scored[0][0]}


def _sum_between_groups(
    scored: Sequence[tuple[Mapping[str, str], float]], key: str, mean: float
) -> float:
    """Return the sum of squares between the groups of trials that share a value of `key`."""
    groups = defaultdict(list)
    for point, score in scored:
        groups[point[key]].append(score)
    return sum(len(group) * (fmean(group) - mean) ** 2 for group in groups.values())
