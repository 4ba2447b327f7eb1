"""Trials as processes of this machine, which share its cores and GPUs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ftcli.sweeps.launchers.base import Launcher, Worker
from ftcli.sweeps.worker import start_worker


@dataclass
class Local(Launcher):
    """Starts each trial as a process; parallel trials divide the threads and take GPUs in turn."""

    threads: int | None = None  # threads a trial; null: the cores divided by the trials at a time

    def open(self, sweep: Path, jobs: int) -> None:
        """Divide threads and GPUs of this machine among the trials."""
        self._threads = self.threads or (max(1, count_cores() // jobs) if jobs > 1 else None)
        self._gpus = list_gpus() if jobs > 1 else []

    def start(self, folder: Path, slot: int) -> Worker:
        """Start a process."""
        environment = {}
        if self._threads and (self.threads or "OMP_NUM_THREADS" not in os.environ):
            environment["OMP_NUM_THREADS"] = str(self._threads)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return Process(start_worker(folder.resolve(), environment))


@dataclass
class Process:
    """A worker on this machine."""

    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Send SIGTERM, on which the run saves and ends."""
        self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def list_gpus() -> list[str]:
    """Return the GPUs that this process may use, as named in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
