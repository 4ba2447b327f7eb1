"""Measurements of the gazal_r1 recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.stages import find_last_run
from ftcli.reproduce.measures import measure

SHARE = 4  # first and last quarter: one line in four at each end


@measure
def answer_tokens(run: Path) -> float:
    """Mean number of tokens per answer over the last quarter of the last stage's log."""
    return _mean_at_end(_read_logged(run, "answer_tokens"))


@measure
def answered_in_form(run: Path) -> float:
    """Mean of the reward `format` over the last quarter of the last stage's log, in [0, 1]."""
    return _mean_at_end(_read_logged(run, "reward.format"))


@measure
def reward_gain(run: Path) -> float:
    """Mean reward over the last quarter of the last stage's log minus that over its first quarter."""
    rewards = _read_logged(run, "reward")
    return _mean_at_end(rewards) - _mean_at_start(rewards)


def _read_logged(run: Path, name: str) -> list[float]:
    """A figure of the last stage, line by line.

    Raises:
        UserError: it was never logged.
    """
    values = [row[name] for row in RunDir(find_last_run(run)).metrics() if name in row]
    if not values:
        raise UserError(f"{run} has logged no {name}.")
    return values


def _mean_at_end(values: list[float]) -> float:
    """The mean over the last quarter."""
    count = max(1, len(values) // SHARE)
    return sum(values[-count:]) / count


def _mean_at_start(values: list[float]) -> float:
    """The mean over the first quarter."""
    return _mean_at_end(values[::-1])
