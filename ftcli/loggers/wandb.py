"""Logger for Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ftcli.core.errors import missing_package
from ftcli.loggers.base import Logger, flatten_config, run_name

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Wandb(Logger):
    """Sends the curves and the config to a project of Weights & Biases."""

    project: str = "ftcli"  # project the run appears in
    entity: str | None = None  # team or user; null is the account's default
    mode: Literal["online", "offline", "disabled"] = "online"  # offline: `wandb sync` later
    tags: list[str] = field(default_factory=list)  # labels of the run

    def open(self, run: Run) -> None:
        """Start the run; the account comes from `wandb login` or WANDB_API_KEY."""
        try:
            import wandb
        except ImportError as error:
            raise missing_package("wandb", "wandb", "logger=wandb") from error
        folder = getattr(run, "dir", None)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            tags=self.tags,
            name=run_name(run),
            config=flatten_config(run),
            dir=str(folder.path) if folder else None,
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of one step; later calls with the same step add to them."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
