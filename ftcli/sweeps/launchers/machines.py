"""One run over several machines as a job of Slurm, through submitit: `ftcli train JOB --launcher slurm_nodes`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.sweeps.launchers.base import Worker
from ftcli.sweeps.launchers.submitit import Submitit


@dataclass
class SlurmMachines(Submitit):
    """Submits `ftcli train` to `nodes` machines that see the same folders; each gets one task and its GPUs."""

    nodes: int = 2  # machines
    processes: int | None = None  # ranks a machine; null: its GPUs, or one
    port: int = 29500  # free port of the first machine, where all meet

    def start(self, folder: Path, slot: int) -> Worker:
        """Refuse trials: a sweep gives each of them one task.

        Raises:
            UserError: always.
        """
        raise UserError(
            "launcher=slurm_nodes distributes one run, not the trials of a sweep.",
            where="launcher",
            fix="--launcher submitit, or ftcli train JOB --launcher slurm_nodes",
        )

    def submit(self, words: Sequence[str], logs: Path) -> str:
        """Submit `ftcli train` with these words; return the job's number.

        Args:
            logs: folder for the output of the machines.

        Raises:
            UserError: submitit is not installed.
        """
        options = {"nodes": self.nodes, "tasks_per_node": 1}
        executor = self._make_executor(logs, "ftcli-train", options)
        processes = self.processes or self.gpus_per_node or 1
        job = executor.submit(train_on_machine, list(words), processes, self.port)
        return str(job.job_id)


def train_on_machine(words: Sequence[str], processes: int, port: int) -> int:
    """Run `ftcli train` as the machine of Slurm's task; returns the exit status.

    The first machine of the job is where all meet.

    Raises:
        RuntimeError: it failed, so that Slurm counts the job as failed.
    """
    import submitit

    task = submitit.JobEnvironment()
    command = [sys.executable, "-m", "ftcli", "train", *words, "-p", str(processes)]
    if task.num_nodes > 1:
        command += ["--nodes", str(task.num_nodes), "--node-rank", str(task.node)]
        command += ["--rendezvous", f"{task.hostnames[0]}:{port}"]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise RuntimeError(f"ftcli train ended with status {status}")
    return status
