"""Logger for TensorBoard: event files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftcli.core.errors import missing_package
from ftcli.loggers.base import Logger, flatten_config

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Tensorboard(Logger):
    """Writes the curves to RUN/tensorboard and the config as text beside them."""

    folder: str | None = None  # where the event files go; null is RUN/tensorboard
    flush_seconds: int = 30  # interval of writes to the disk

    def open(self, run: Run) -> None:
        """Open the event file."""
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise missing_package("tensorboard", "tensorboard", "logger=tensorboard") from error
        assert run.dir is not None  # loggers are opened by runs with a folder
        target = self.folder or run.dir.path / "tensorboard"
        self._writer = SummaryWriter(str(target), flush_secs=self.flush_seconds)
        table = "".join(f"| {key} | {value} |\n" for key, value in flatten_config(run).items())
        self._writer.add_text("config", f"| key | value |\n|---|---|\n{table}")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add one scalar a figure."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
