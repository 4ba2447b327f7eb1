"""Requests to stop or save from outside: signals, and the files STOP and SAVE in the run directory."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ftcli.core.run_dir import RunDir

STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1")  # Slurm warns by SIGUSR1 or SIGTERM


class StopSaveRequests:
    """Context manager in which a signal is recorded instead of ending the process; the loop polls it.

    A second signal of the same kind has its original effect, so that it ends the process at once.
    """

    def __init__(self, run_dir: RunDir | None) -> None:
        self.run_dir = run_dir
        self.caught: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSaveRequests:
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._record_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record_signal(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number).name
        signal.signal(number, self._before[number])

    def take_stop_request(self) -> str | None:
        """Return the request to end the run, a signal's name or `STOP`, and remove the file; None without one.

        A request to end the run stays: later calls return it again.
        """
        if self.caught is None and self.run_dir is not None and self.run_dir.take_request("STOP"):
            self.caught = "STOP"
        return self.caught

    def take_save_request(self) -> bool:
        """Return whether a checkpoint was requested by the file SAVE, and remove the file."""
        return self.run_dir is not None and self.run_dir.take_request("SAVE")
