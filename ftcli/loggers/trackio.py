"""Logger for Trackio, a local-first tracker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftcli.core.errors import missing_package
from ftcli.loggers.base import Logger, flatten_config, run_name

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Trackio(Logger):
    """Keeps the curves in Trackio's database on this machine, or in a Space of the Hub."""

    project: str = "ftcli"  # project the run appears in
    space_id: str | None = None  # user/space to send the metrics to; null stays on this machine

    def open(self, run: Run) -> None:
        """Start the run."""
        try:
            import trackio
        except ImportError as error:
            raise missing_package("trackio", "trackio", "logger=trackio") from error
        self._run = trackio.init(
            project=self.project,
            name=run_name(run),
            space_id=self.space_id,
            config=flatten_config(run),
            embed=False,
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of one step."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Wait until everything is stored."""
        self._run.finish()
