"""The loop that runs trials: start workers, poll them, prune, record results, until no trial is left."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ftcli.sweeps.launchers.base import Launcher, Worker
from ftcli.sweeps.search import Search
from ftcli.sweeps.trial import ENDED, FAILED, RUNNING, STOPPED, Trial

log = logging.getLogger("ftcli.sweeps")

PAUSE = 0.2  # seconds between two polls of the workers


class TrialRunner:
    """Runs the trials of a search through a launcher, at most `jobs` at a time.

    Args:
        update: called after every poll of the workers.
        on_end: called with each trial that has ended.
    """

    def __init__(
        self,
        search: Search,
        launcher: Launcher,
        jobs: int,
        update: Callable[[], None],
        on_end: Callable[[Trial], None],
    ) -> None:
        self.search, self.launcher, self.update, self.on_end = search, launcher, update, on_end
        self.free = list(range(jobs))
        self.running: dict[int, tuple[Trial, Worker]] = {}
        self.pruned: set[int] = set()

    def run(self) -> bool:
        """Run until no trial is left; returns whether it was interrupted.

        SIGINT and SIGTERM let the running trials save and end; a second one ends them at once.
        """
        try:
            with _sigterm_as_interrupt():
                while self._start() or self.running:
                    self._poll_workers()
                    self.update()
                    time.sleep(PAUSE)
            return False
        except KeyboardInterrupt:
            self._interrupt()
            return True

    def _start(self) -> bool:
        """Fill the free slots; returns whether any trial was started."""
        started = False
        while self.free and (trial := self.search.next_trial()) is not None:
            if trial.status in ENDED:  # it needs no worker
                self.on_end(trial)
                continue
            slot = self.free.pop(0)
            self.running[slot] = (trial, self.launcher.start(trial.folder, slot))
            trial.status, started = RUNNING, True
        return started

    def _poll_workers(self) -> None:
        for slot, (trial, worker) in list(self.running.items()):
            code = worker.poll()
            if code is not None:
                del self.running[slot]
                self.free = sorted([*self.free, slot])
                trial.record_exit(code, trial.number in self.pruned)
                self.search.record_end(trial)
                self.on_end(trial)
            elif trial.number not in self.pruned and self.search.should_prune(trial):
                self.pruned.add(trial.number)
                (trial.folder / "STOP").touch()  # on which the run saves and ends

    def _interrupt(self) -> None:
        """Ask all workers to save and end, wait for them, and record their trials."""
        if self.running:
            log.warning("stopping: the running trials save and end; interrupt again to kill them")
        for _, worker in self.running.values():
            worker.stop()
        try:
            with _sigterm_as_interrupt():
                while any(worker.poll() is None for _, worker in self.running.values()):
                    time.sleep(PAUSE)
        except KeyboardInterrupt:
            for _, worker in self.running.values():
                worker.kill()
        for trial, worker in self.running.values():
            trial.record_exit(worker.poll() or 0, trial.number in self.pruned)
            if trial.status == FAILED:  # it was stopped before it could save
                trial.status, trial.error = STOPPED, ""
            self.search.record_end(trial)
        self.running.clear()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM in the block like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
