"""Figures of rewards over the last stage of a run."""

from __future__ import annotations

from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.stages import find_last_run

SHARE = 4  # of the lines at each end: one in so many


def read_logged(run: Path, name: str) -> list[float]:
    """A figure of the last stage, line by line.

    Raises:
        UserError: it was never logged.
    """
    values = [row[name] for row in RunDir(find_last_run(run)).metrics() if name in row]
    if not values:
        raise UserError(f"{run} has logged no {name}.")
    return values


def mean_at_end(values: list[float]) -> float:
    """The mean over the last quarter."""
    count = max(1, len(values) // SHARE)
    return sum(values[-count:]) / count


def mean_at_start(values: list[float]) -> float:
    """The mean over the first quarter."""
    return mean_at_end(values[::-1])
