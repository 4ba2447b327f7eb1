"""One run in several processes: the parent composes once, the ranks read the resolved config."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import INTERRUPTED, OUT_OF_MEMORY, USER, UserError
from ftcli.core.run_dir import RunDir

if TYPE_CHECKING:
    from ftcli.config import ComposedJob


def launch(composed: ComposedJob, processes: int) -> dict[str, Any]:
    """Train in `processes` ranks on this machine, through torchrun; returns result.json's content.

    Raises:
        UserError: a rank failed, after it printed its own message. The run directory is removed when
            the mistake was found before the first step.
    """
    from ftcli.jobs.bases import ensure_base
    from ftcli.run.build import create_run

    ensure_base(composed)
    # build all parts once here, so that an error in them is printed once
    run_dir = create_run(composed).dir
    assert run_dir is not None
    with run_dir.removed_unless_started():
        return run_ranks(run_dir, processes)


def run_ranks(run_dir: RunDir, processes: int) -> dict[str, Any]:
    """Train a run whose record exists already in `processes` ranks; returns the content of result.json."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "ftcli.jobs.launch", str(run_dir.path)]
    # torchrun would print a warning and set one thread; divide the cores instead
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    done = subprocess.run(command, env={"OMP_NUM_THREADS": threads} | os.environ, check=False)
    result = run_dir.result()
    if not result:
        code = INTERRUPTED if done.returncode < 0 else run_dir.failure_code()
        if code == USER and not run_dir.start_count:
            raise UserError("nothing was trained.", fix="fix the error printed above")
        raise UserError(
            f"a process ended with status {code}.",
            where=str(run_dir.path),
            fix=f"see {run_dir.path}/train.log",
            code=code,
        )
    return result


def _run_rank(path: str) -> None:
    """Train as one rank; exits with the code of a UserError."""
    from ftcli.config import load
    from ftcli.jobs.train import fit
    from ftcli.run.build import build_run

    run_dir = RunDir.open(path)
    run = build_run(load(run_dir.path / "config.yaml").config, run_dir)
    try:
        fit(run, None)
    except UserError as error:
        from ftcli.config.display import show_error

        if run.accelerator.is_main_process or error.code == OUT_OF_MEMORY:  # a rank's own
            show_error(error)
        sys.exit(error.code)


if __name__ == "__main__":
    _run_rank(sys.argv[1])
