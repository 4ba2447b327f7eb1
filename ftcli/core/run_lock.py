"""Locks on files, so that one process at a time works in a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ftcli.core.errors import UserError

FILE = ".busy"
PATIENCE = 60.0  # seconds; a process that was told to stop still saves
_held: set[str] = set()


@contextmanager
def lock_run(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a run; the system releases it when the process ends, however it ends.

    A process that holds the lock already goes on at once. Where the system has no such locks
    (Windows), nothing is held.

    Args:
        patience: how long to wait for another process, in seconds.

    Raises:
        UserError: another process works in the run and does not end.
    """
    key = f"{os.getpid()} {folder.resolve()}"
    if key in _held or not folder.is_dir() or not os.access(folder, os.W_OK):
        yield
        return
    with open(folder / FILE, "a") as stream:
        _wait_for_lock(stream, folder, patience)
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)


@contextmanager
def lock_file(path: Path, wait: bool) -> Iterator[bool]:
    """Lock a file for this process; yields False if another process holds it and `wait` is off."""
    with open(path, "a") as stream:
        yield _try_lock(stream, wait)


def _wait_for_lock(stream: IO[str], folder: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while not _try_lock(stream, wait=False):
        if time.monotonic() > end:
            raise UserError(
                "another process trains this run.", str(folder), f"touch {folder}/STOP, or wait"
            )
        time.sleep(0.1)


def _try_lock(stream: IO[str], wait: bool) -> bool:
    """Lock an open file; True also where the system or the file system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
