"""Trials as tasks of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core.errors import missing_package
from ftcli.sweeps.launchers.base import Launcher, Worker
from ftcli.sweeps.worker import run_worker


@dataclass
class Ray(Launcher):
    """Hands each trial to Ray, which finds a node with free cores; all nodes see the sweep's folder."""

    address: str | None = None  # of a running cluster (auto finds it); null: a node on this machine
    cpus: float = 1  # cores a trial; its threads too
    gpus: float = 0  # GPUs a trial; a fraction lets trials share one

    jobs = 16

    def open(self, sweep: Path, jobs: int) -> None:
        """Join the cluster, or start a node here."""
        try:
            import ray
        except ImportError as error:
            raise missing_package("ray", "ray", "launcher=ray") from error
        ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        self._ray: Any = ray
        task = ray.remote(run_worker)
        self._task = task.options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)

    def start(self, folder: Path, slot: int) -> Worker:
        """Hand a task to Ray."""
        threads = {"OMP_NUM_THREADS": str(max(1, int(self.cpus)))}
        return RayTask(self._ray, self._task.remote(str(folder.resolve()), threads))

    def close(self) -> None:
        """Disconnect from the cluster; a node started by `open` ends."""
        self._ray.shutdown()


@dataclass
class RayTask:
    """A task of Ray."""

    ray: Any
    reference: Any

    def poll(self) -> int | None:
        """Return the worker's exit status; 1 when Ray ended it; None while it waits or runs."""
        done, _ = self.ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return int(self.ray.get(self.reference))
        except self.ray.exceptions.RayError:
            return 1

    def stop(self) -> None:
        """Interrupt it: the worker saves and ends."""
        self.ray.cancel(self.reference)

    def kill(self) -> None:
        """End its process."""
        self.ray.cancel(self.reference, force=True)
