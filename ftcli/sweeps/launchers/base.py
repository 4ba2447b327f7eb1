"""Interface of launchers, which start a worker for a folder and report its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol


class Worker(Protocol):
    """A running trial."""

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""

    def stop(self) -> None:
        """Ask it to save and end."""

    def kill(self) -> None:
        """End it now."""


class Launcher(ABC):
    """Base of all launchers.

    Attributes:
        jobs: number of parallel trials where --jobs is not given.
    """

    jobs = 1

    def open(self, sweep: Path, jobs: int) -> None:
        """Prepare to run at most `jobs` trials at a time of the sweep in that folder.

        Raises:
            UserError: a required package is missing.
        """

    @abstractmethod
    def start(self, folder: Path, slot: int) -> Worker:
        """Start the trial whose record lies in `folder`; `slot` (from 0) is free until it ends."""

    def close(self) -> None:
        """Release the resources of `open`."""
