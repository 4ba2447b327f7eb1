"""Trials as jobs of Slurm, through submitit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ftcli.core.errors import missing_package
from ftcli.sweeps.launchers.base import Launcher, Worker
from ftcli.sweeps.launchers.local import count_cores
from ftcli.sweeps.worker import run_worker

if TYPE_CHECKING:
    import submitit


@dataclass
class Submitit(Launcher):
    """Submits each trial as a job that sees the sweep's folder; Slurm decides when it runs."""

    cluster: str | None = None  # slurm, or local: processes here; null: Slurm where there is one
    partition: str | None = None  # Slurm's partition
    timeout_min: int = 1440  # minutes until Slurm ends a job; the sweep resumes it later
    cpus_per_task: int | None = None  # cores a trial
    gpus_per_node: int | None = None  # GPUs a trial
    mem_gb: float | None = None  # memory a trial
    setup: list[str] = field(default_factory=list)  # shell lines before it, such as `module load`
    slurm: dict[str, Any] = field(default_factory=dict)  # further options of sbatch, by name

    jobs = 16
    shell: ClassVar = (
        "setup",
        "slurm",
    )  # keys that a job's file may not set: they can run commands

    def open(self, sweep: Path, jobs: int) -> None:
        """Create the executor, which logs to SWEEP/submitit."""
        self._executor = self._make_executor(sweep.resolve() / "submitit", "ftcli-sweep", {})
        shared = self._executor.cluster == "local" and jobs > 1
        threads = self.cpus_per_task or (max(1, count_cores() // jobs) if shared else None)
        self._environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}

    def _make_executor(self, logs: Path, name: str, more: dict[str, Any]) -> submitit.AutoExecutor:
        """Return an executor with these settings and `more` of them.

        Raises:
            UserError: submitit is not installed.
        """
        try:
            import submitit
        except ImportError as error:
            raise missing_package("submitit", "slurm", "launcher=submitit") from error
        executor = submitit.AutoExecutor(str(logs), self.cluster)
        options: dict[str, Any] = {
            "name": name,
            "timeout_min": self.timeout_min,
            "cpus_per_task": self.cpus_per_task,
            "gpus_per_node": self.gpus_per_node,
            "mem_gb": self.mem_gb,
            **more,
        }
        if executor.cluster == "slurm":
            options |= {
                "slurm_partition": self.partition,
                "slurm_setup": self.setup or None,
                "slurm_additional_parameters": self.slurm or None,
            }
        executor.update_parameters(**{k: v for k, v in options.items() if v is not None})
        return executor

    def start(self, folder: Path, slot: int) -> Worker:
        """Submit a job."""
        job = self._executor.submit(run_worker, str(folder.resolve()), self._environment)
        return SlurmJob(job)


@dataclass
class SlurmJob:
    """A job of Slurm."""

    job: submitit.Job[int]

    def poll(self) -> int | None:
        """Return the worker's exit status; 1 when Slurm ended it; None while it waits or runs."""
        if not self.job.done():
            return None
        try:
            return self.job.result()
        except Exception:  # the error is in SWEEP/submitit and in the log of the trial
            return 1

    def stop(self) -> None:
        """Cancel it: Slurm sends SIGTERM, on which a run saves."""
        self.job.cancel()

    def kill(self) -> None:
        """Cancel the job, as `stop` does."""
        self.job.cancel()
