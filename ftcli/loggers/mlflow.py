"""MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftcli.errors import missing_package
from ftcli.loggers.base import Logger, run_name, settings


@dataclass
class Mlflow(Logger):
    """Sends the curves and the config to an MLflow experiment."""

    experiment: str = "ftcli"  # experiment the run appears in
    tracking_uri: str | None = None  # server, database or folder; null is MLFLOW_TRACKING_URI

    def open(self, run: Any) -> None:
        """Start the run and log the config as its parameters."""
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise missing_package("mlflow-skinny", "mlflow", "logger=mlflow") from error
        self._client = MlflowClient(tracking_uri=self.tracking_uri)
        found = self._client.get_experiment_by_name(self.experiment)
        where = found.experiment_id if found else self._client.create_experiment(self.experiment)
        self._id = self._client.create_run(where, run_name=run_name(run)).info.run_id
        for key, value in settings(run).items():
            self._client.log_param(self._id, key, value)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """One metric a figure."""
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)
