"""Where trials run: a launcher starts a worker for a folder and tells when it has ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol


class Worker(Protocol):
    """A trial under way."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def stop(self) -> None:
        """Ask it to save and end."""

    def kill(self) -> None:
        """End it now."""


class Launcher(ABC):
    """Base of all launchers.

    Attributes:
        jobs: trials at a time where --jobs does not say.
    """

    jobs = 1

    def open(self, sweep: Path, jobs: int) -> None:
        """Get ready to run at most `jobs` trials at a time of the sweep in that folder.

        Raises:
            UserError: a package that it needs is missing.
        """

    @abstractmethod
    def start(self, folder: Path, slot: int) -> Worker:
        """Start the trial whose record lies in `folder`; `slot` (from 0) is free until it ends."""

    def close(self) -> None:
        """Let go of what `open` took."""
