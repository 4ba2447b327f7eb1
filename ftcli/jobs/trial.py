"""One run in a given folder: read when finished, resumed when interrupted, else trained."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import FAILED, USER, UserError
from ftcli.core.run_dir import RunDir

if TYPE_CHECKING:
    from ftcli.config import ComposedJob


def read_finished_result(path: Path) -> dict[str, Any] | None:
    """Return result.json of a run that has finished; None for any other.

    A run that was killed after result.json and before report.md counts as unfinished; resuming it
    writes the report. A job with stages has no report; that is in its last stage.
    """
    result = RunDir(path).result()
    reported = "stages" in result or (path / "report.md").exists()
    return result if result.get("status") == "finished" and reported else None


def write_job_record(composed: ComposedJob, path: Path) -> None:
    """Write the record of a validated job to the folder `path`, unless it exists."""
    from ftcli.core.precision import resolve_precision
    from ftcli.run.record import write_record

    if composed.config.get("stages"):
        from ftcli.jobs import stages

        stages.record_stages(composed, path)
    elif not (path / "config.yaml").exists():
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        composed.config = resolve_precision(composed.config)
        write_record(RunDir(path), composed)


def complete_job(composed: ComposedJob, path: Path, quiet: bool = True) -> dict[str, Any]:
    """Return the result of a validated job in the folder `path`, trained in a separate process.

    The result of a finished run is read, an interrupted run is resumed from its last checkpoint, and
    otherwise the job is trained from the beginning.

    Raises:
        UserError: the run failed; the message names its log.
    """
    done = read_finished_result(path)
    if done is not None:
        return done
    known = path.exists()
    write_job_record(composed, path)
    environment = os.environ | ({"FTCLI_QUIET": "1"} if quiet else {})
    command = [sys.executable, "-m", "ftcli.jobs.trial", str(path)]
    ended = subprocess.run(command, env=environment, check=False)
    done = read_finished_result(path)
    if done is None:
        if ended.returncode == USER and not known and not RunDir(path).start_count:
            shutil.rmtree(path)
            raise UserError("nothing was trained.", fix="fix the error printed above")
        raise UserError(
            f"the run ended with status {ended.returncode}.",
            where=str(path),
            fix=f"see {path}/train.log",
            code=ended.returncode if ended.returncode > 0 else FAILED,
        )
    return done


def run_child(path: str) -> None:
    """Train or resume the run whose record lies in `path`; exits with the code of a UserError."""
    from ftcli.jobs import stages
    from ftcli.jobs.train import resume

    run_dir = RunDir.open(path)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        if stages.is_parent(run_dir.path):
            stages.resume_stages(run_dir.path)
        else:
            resume(run_dir.path)
    except UserError as error:
        from ftcli.config.display import show_error

        show_error(error)
        sys.exit(error.code)


def _end_with_parent(parent: int) -> None:
    """Send SIGTERM to this process when its parent has ended, so that the run saves and frees its folder."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    run_child(sys.argv[1])
