"""Logger for MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ftcli.core.errors import UserError, missing_package
from ftcli.loggers.base import Logger, flatten_config, run_name

if TYPE_CHECKING:
    from ftcli.core.run import Run

LOCAL = "sqlite:///mlflow.db"
BATCH = 100  # parameters in one request, MLflow's limit


@dataclass
class Mlflow(Logger):
    """Sends the curves and the config to an MLflow experiment."""

    experiment: str = "ftcli"  # experiment the run appears in
    tracking_uri: str | None = None  # null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db

    def open(self, run: Run) -> None:
        """Start the run and log the config as its parameters.

        Raises:
            UserError: MLflow or the package for its databases is not installed, or MLflow refuses the address.
        """
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise missing_package("mlflow-skinny", "mlflow", "logger=mlflow") from error
        try:
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
            self._begin(run)
        except MlflowException as error:
            raise self._refused(error) from error

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Log one metric a figure."""
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)

    def _begin(self, run: Run) -> None:
        from mlflow.entities import Param

        client = self._client
        experiment = client.get_experiment_by_name(self.experiment)
        where = (
            experiment.experiment_id if experiment else client.create_experiment(self.experiment)
        )
        self._id = client.create_run(where, run_name=run_name(run)).info.run_id
        # keys may be patterns of module names, with characters that MLflow refuses
        named = {re.sub(r"[^\w\-. :]", "_", key): str(v) for key, v in flatten_config(run).items()}
        parameters = [Param(key, value) for key, value in named.items()]
        for start in range(0, len(parameters), BATCH):
            client.log_batch(self._id, params=parameters[start : start + BATCH])

    def _refused(self, error: Exception) -> UserError:
        """Return MLflow's message as a UserError; without sqlalchemy it is only 'unsupported', so name the package."""
        if find_spec("sqlalchemy") is None and "nsupported" in str(error):
            return missing_package("sqlalchemy", "mlflow", "a local store of logger=mlflow")
        what = str(error).strip().splitlines()[0]
        where = "logger.mlflow.tracking_uri"
        return UserError(f"MLflow: {what}", where, f"{where}={LOCAL}")
