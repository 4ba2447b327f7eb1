"""Figures of rewards over the last stage of a run."""

from __future__ import annotations

from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.stages import last

SHARE = 4  # of the lines at each end: one in so many


def logged(run: Path, name: str) -> list[float]:
    """A figure of the last stage, line by line.

    Raises:
        UserError: it was never logged.
    """
    values = [row[name] for row in RunDir(last(run)).metrics() if name in row]
    if not values:
        raise UserError(f"{run} has logged no {name}.")
    return values


def end(values: list[float]) -> float:
    """The mean over the last quarter."""
    count = max(1, len(values) // SHARE)
    return sum(values[-count:]) / count


def beginning(values: list[float]) -> float:
    """The mean over the first quarter."""
    return end(values[::-1])
