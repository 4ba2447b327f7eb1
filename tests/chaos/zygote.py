"""Commands in forked copies of a process that has imported everything: a second each, not ten.

The copies start from the same memory, so that they differ in nothing but the fault they get.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from .faults import KILL, PLACES, Block, Fault, Faulty

LONGEST = 600.0  # seconds after which a command hangs


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status, negative where a signal ended it.
        struck: where the run was when the fault happened; empty where it did not.
        calls: that touched the disk.
    """

    status: int
    struck: str
    calls: int
    seconds: float  # of the processor


def command(
    words: Sequence[str], place: Path, fault: Fault | None = None, modules: Path | None = None
) -> Ended:
    """Run `ftcli WORDS` in a copy of this process, with `place` as its folder and its screen in `screen`.

    Args:
        modules: where to leave the names of what it had to import.
    """
    place.mkdir(parents=True, exist_ok=True)
    block = Block()
    process = os.fork()
    if process == 0:
        os.setsid()
        _become(words, place, Faulty(fault, block), modules)
    status, seconds = _watched(process, fault, block)
    struck = PLACES[block.struck - 1] if block.struck else ""
    return Ended(status, struck, block.calls, seconds)


def _watched(process: int, fault: Fault | None, block: Block) -> tuple[int, float]:
    """Wait for the end, and strike when it is time; returns the status and the processor's seconds."""
    due = fault.seconds if fault is not None else None
    began, used = time.monotonic(), 0.0
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            _clear(process, fault)
            return os.waitstatus_to_exitcode(status), used
        used = _used(process)
        if due is not None and used >= due:
            assert fault is not None
            due = None
            block.strike()
            if fault.what != KILL:
                os.kill(process, signal.SIGTERM)
            elif fault.everything:
                os.killpg(process, signal.SIGKILL)
            else:
                os.kill(process, signal.SIGKILL)
        if time.monotonic() - began > LONGEST:
            os.killpg(process, signal.SIGKILL)
            raise TimeoutError(f"process {process} hangs")
        time.sleep(0.01)


def _used(process: int) -> float:
    """Seconds that the processor has worked for a process."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _clear(group: int, fault: Fault | None) -> None:
    """Nothing survives that machine; orphans of a lone death are left to end by themselves."""
    if fault is None or fault.everything:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _become(words: Sequence[str], place: Path, faulty: Faulty, modules: Path | None) -> None:
    status = 99
    try:
        _settle(place / "screen", ["ftcli", *words])
        os.chdir(place)
        _fork_workers()
        faulty.install()
        from ftcli.cli.app import run

        status = run(list(words))
        if modules is not None:
            modules.write_text(json.dumps(sorted(sys.modules)))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _settle(screen: Path, argv: list[str]) -> None:
    """What a fresh process has: its own screen, its words, the system's signal handlers."""
    descriptor = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    sys.argv = argv
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["FTCLI_QUIET"] = "1"


class Forked:
    """A worker process, forked where the product would start a fresh one."""

    def __init__(self, main: Callable[[str], None], folder: Path) -> None:
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            status = 1
            try:
                _settle(folder / "worker.log", ["worker", str(folder)])
                main(str(folder))
                status = 0
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Its exit status."""
        while self.poll() is None:
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)


def _fork_workers() -> None:
    """Trials of sweeps and reproductions, which are processes of their own, are forked too."""
    from ftcli.jobs import trial
    from ftcli.sweeps import runner, worker
    from ftcli.sweeps.launchers import local

    def run(command: Sequence[str], **options: object) -> SimpleNamespace:
        return SimpleNamespace(returncode=Forked(trial.run_child, Path(command[-1])).wait())

    local.start_worker = lambda folder, environment: Forked(worker.main, folder)  # type: ignore[assignment]
    trial.subprocess = SimpleNamespace(run=run)  # type: ignore[assignment]
    runner.PAUSE = 0.02


def apart(work: Callable[[], None]) -> None:
    """Do something in a copy, so that this process stays without threads.

    Raises:
        RuntimeError: it failed.
    """
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError(f"{work} failed")


def load(names: Path) -> None:
    """Import what a copy had to import, once and for all."""
    for name in json.loads(names.read_text()):
        if name not in sys.modules and name != "__main__":
            with suppress(Exception):
                importlib.import_module(name)


def threads() -> int:
    """Threads of this process: copies have one, so it should have no more."""
    return len(os.listdir("/proc/self/task"))
