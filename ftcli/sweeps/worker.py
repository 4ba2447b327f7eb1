"""The process that trains one trial: `python -m ftcli.sweeps.worker FOLDER`.

The folder and the record in it are all a worker gets, so it may run on any machine that sees the
folder. It waits for another worker that is still busy there; `ftcli.jobs.trial` ends it, with a
checkpoint, when the process that started it goes away.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ftcli.core.run_lock import lock_file


def start_worker(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker; its output goes to FOLDER/worker.log, and a signal at the terminal past it."""
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
    """Train in a process of its own and wait; what launchers send to other machines."""
    process = start_worker(Path(folder), environment)
    try:
        return process.wait()
    except BaseException:  # cancelled: let it save
        process.terminate()
        process.wait()
        raise


def main(folder: str) -> None:
    """Train or resume the trial whose record lies in `folder`."""
    parent = os.getppid()
    with lock_file(Path(folder) / ".lock", wait=True):
        if os.getppid() != parent:  # whoever wanted the trial went away while it waited
            return
        from ftcli.jobs.trial import read_finished_result, run_child

        if read_finished_result(Path(folder)) is None:
            (Path(folder) / "result.json").unlink(missing_ok=True)  # of a stop: it is over
            run_child(folder)


if __name__ == "__main__":
    main(sys.argv[1])
