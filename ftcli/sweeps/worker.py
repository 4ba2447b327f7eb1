"""The process that trains one trial: `python -m ftcli.sweeps.worker FOLDER`.

A worker needs only the folder with its record, so it may run on any machine that sees the folder. It
waits while another worker is busy there; `ftcli.jobs.trial` ends it, with a checkpoint, when the process
that started it ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ftcli.core.run_lock import lock_file


def start_worker(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker in a session of its own, without signals of the terminal; it writes FOLDER/worker.log."""
    (folder / "STOP").unlink(missing_ok=True)
    with open(folder / "worker.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ftcli.sweeps.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "FTCLI_QUIET": "1", **environment},
            start_new_session=True,
        )


def run_worker(folder: str, environment: Mapping[str, str]) -> int:
    """Start a worker and wait for it; launchers run this on other machines. Returns the exit status."""
    process = start_worker(Path(folder), environment)
    try:
        return process.wait()
    except BaseException:  # cancelled: let the run save
        process.terminate()
        process.wait()
        raise


def main(folder: str) -> None:
    """Train or resume the trial whose record lies in `folder`."""
    parent = os.getppid()
    with lock_file(Path(folder) / ".lock", wait=True):
        if os.getppid() != parent:  # the process that started this one ended while it waited
            return
        from ftcli.jobs.trial import read_finished_result, run_child

        if read_finished_result(Path(folder)) is None:
            (Path(folder) / "result.json").unlink(missing_ok=True)  # result of an earlier stop
            run_child(folder)


if __name__ == "__main__":
    main(sys.argv[1])
