"""One run in several processes, on one or more machines, started and watched by torch's elastic agent (torchrun).

The parent composes once; the ranks read the resolved configuration. Of what ends them it shows one message
(`ftcli.jobs.rank_failures`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import FAILED, INTERRUPTED, UserError
from ftcli.core.run_dir import RunDir
from ftcli.core.run_lock import lock_run
from ftcli.jobs.rank_failures import find_cause, tell_parent

if TYPE_CHECKING:
    from ftcli.config import ComposedJob

AGENT_LOGGERS = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.launcher.api",
)
AGENT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PATIENCE = 30  # seconds in which ranks may save after a request to end, before they are killed


@dataclass(frozen=True)
class Machines:
    """The machines of a run: their number, which of them this is (from 0), and where they meet."""

    count: int = 1
    rank: int = 0
    rendezvous: str | None = None  # host:port of the first machine

    def __post_init__(self) -> None:
        if self.count > 1 and not self.rendezvous:
            raise UserError(
                f"--nodes {self.count} needs the place where the machines meet.",
                fix="--rendezvous HOST:PORT, the same on all machines: the first one's name and a free port",
            )
        if not 0 <= self.rank < self.count:
            raise UserError(
                f"--node-rank {self.rank} is not among {self.count} machines.",
                fix=f"--node-rank 0 to {self.count - 1}, another one on each machine",
            )


@dataclass(frozen=True)
class LaunchTopology:
    """How a run is distributed: processes on each machine, and the machines."""

    processes: int = 1
    machines: Machines = Machines()

    @property
    def several(self) -> bool:
        """Whether there is more than one rank."""
        return self.processes > 1 or self.machines.count > 1

    @property
    def words(self) -> str:
        """The options of the command line that give the same ranks, for messages."""
        words = f" -p {self.processes}" if self.processes > 1 else ""
        if self.machines.count > 1:
            words += f" --nodes {self.machines.count} --node-rank R --rendezvous HOST:PORT"
        return words


def launch(composed: ComposedJob, topology: LaunchTopology) -> dict[str, Any]:
    """Train in several ranks; returns result.json's content, or nothing on machines other than the first.

    The first machine writes the run directory, which all must see under the same path.

    Raises:
        UserError: a rank failed. The run directory is removed when the mistake was found before the
            first step.
    """
    from ftcli.jobs.bases import train_missing_base
    from ftcli.run.build import create_run_in_new_dir

    if topology.machines.rank:
        return run_ranks(None, topology)
    train_missing_base(composed)
    # build all parts once here, so that an error in them is found before any rank starts
    run_dir = create_run_in_new_dir(composed).dir
    assert run_dir is not None
    with run_dir.removed_on_user_error():
        return run_ranks(run_dir, topology)


def run_ranks(
    run_dir: RunDir | None, topology: LaunchTopology, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Train a run whose record exists already in several ranks; returns the content of result.json.

    Args:
        run_dir: None on machines other than the first, whose ranks learn it from the first rank.
        checkpoint: the one to resume from.

    Raises:
        UserError: a rank failed, or was killed; the others were ended.
    """
    if run_dir is None:
        _start_agent("", "", topology)
        return {}
    with lock_run(run_dir.path):
        try:
            _start_agent(str(run_dir.path), str(checkpoint or ""), topology)
        except UserError as error:
            if error.code == FAILED and not error.fix:
                error.where, error.fix = str(run_dir.path), _describe_way_on(run_dir, topology)
            raise
    return run_dir.result()


def _start_agent(path: str, checkpoint: str, topology: LaunchTopology) -> None:
    """Start this machine's ranks and wait for their end."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = topology.machines.count > 1
    config = LaunchConfig(
        min_nodes=topology.machines.count,
        max_nodes=topology.machines.count,
        nproc_per_node=topology.processes,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=topology.machines.rendezvous or "localhost:0",
        rdzv_configs={"rank": topology.machines.rank} if several else {},
        run_id="ftcli" if several else uuid.uuid4().hex,
        max_restarts=0,
        shutdown_timeout=PATIENCE,
    )
    with _agent_environment(topology.processes):
        try:
            elastic_launch(config, sys.executable)("-m", "ftcli.jobs.launch", path, checkpoint)
        except ChildFailedError as error:
            raise find_cause(error.failures) from None
        except SignalException as error:
            if not (path and RunDir(path).result()):
                name = signal.Signals(error.sigval).name
                raise UserError(f"stopped by {name}.", path or None, code=INTERRUPTED) from None


@contextmanager
def _agent_environment(processes: int) -> Iterator[None]:
    """Divide the cores among the ranks, and leave messages about failed ranks to `find_cause`.

    The agent (torch 2.13) does not restore the handlers of signals; afterwards its own would only raise an exception.
    """
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    ours = "OMP_NUM_THREADS" not in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    before = {name: logging.getLogger(name).level for name in AGENT_LOGGERS}
    handlers = {number: signal.getsignal(number) for number in AGENT_SIGNALS}
    for name in AGENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if ours:
            del os.environ["OMP_NUM_THREADS"]


def _describe_way_on(run_dir: RunDir, topology: LaunchTopology) -> str:
    from ftcli.trainer.checkpoint import Checkpoints

    done = Checkpoints(run_dir.checkpoints).list_complete()
    begin = f"goes on from {done[-1].name}" if done else "begins anew: nothing was saved yet"
    return f"ftcli resume {run_dir.path}{topology.words} {begin}; {run_dir.path}/train.log has the traceback"


def _run_rank(path: str, checkpoint: str) -> None:
    """Train as one rank; exits with the code of an error, which goes to the parent."""
    from ftcli.config import load
    from ftcli.core.ranks import broadcast_from_main, build_accelerator
    from ftcli.jobs.train import train_and_record_failure
    from ftcli.run.build import build_run

    try:
        path, checkpoint = broadcast_from_main(build_accelerator(), (path, checkpoint))
        run_dir = RunDir.open(path)
        run = build_run(load(run_dir.path / "config.yaml").config, run_dir)
        train_and_record_failure(run, Path(checkpoint) if checkpoint else None)
    except UserError as error:
        tell_parent(error)
    except Exception as error:
        tell_parent(UserError(f"{type(error).__name__}: {error}", code=FAILED))


if __name__ == "__main__":
    _run_rank(*sys.argv[1:])
