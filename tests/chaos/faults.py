"""What goes wrong, and where: faults that are put into a process that was forked for it.

Nothing in ftcli knows of them. The calls by which a run touches the disk are counted; at the one that was
drawn the process dies, is told to stop, or gets an error, before, after or in the middle of the write.
"""

from __future__ import annotations

import errno
import io
import json
import mmap
import os
import random
import shutil
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILL, TERM, FULL, DENIED = "kill -9", "SIGTERM", "ENOSPC", "EACCES"
ERRORS = {FULL: errno.ENOSPC, DENIED: errno.EACCES}
PLACES = ("start", "token cache", "evaluation", "step", "checkpoint", "finish")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        call: at which of the counted calls; None: at a time.
        seconds: at which time of its processor, so that a busy machine changes nothing.
        share: how much of the write at that call is done: 0 none, 1 all.
        lasting: errors go on until the process ends.
        everything: the whole machine dies, not one process of it.
        pictures: the report is written in full, which takes as long as all the rest.
    """

    what: str
    call: int | None = None
    seconds: float | None = None
    share: float = 0.0
    lasting: bool = False
    everything: bool = True
    pictures: bool = False

    @classmethod
    def draw(cls, source: random.Random, calls: float, seconds: float | None) -> Fault:
        """A random one for a command of so many calls and seconds; None: only calls are known."""
        what = source.choices([KILL, TERM, FULL, DENIED], [60, 15, 15, 10])[0]
        share = source.choice([0.0, source.random(), 1.0])
        lasting, everything = source.random() < 0.5, source.random() < 0.6
        pictures = source.random() < 0.1
        if what in ERRORS or seconds is None or source.random() < 0.6:
            call = source.randint(1, int(calls))
            return cls(what, call, None, share, lasting, everything, pictures)
        return cls(what, None, source.uniform(0, seconds), 1.0, False, everything, pictures)

    def __str__(self) -> str:
        where = f"call {self.call}" if self.call else f"{self.seconds:.2f} s"
        more = " until the end" if self.lasting and self.what in ERRORS else ""
        part = f", {self.share:.0%} written" if self.call else ""
        return f"{self.what} at {where}{part}{more}"


class Block:
    """What a forked process and the one that watches it both see: calls, whether it struck, where it is."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 3 * 8)
        self.now = 0

    def _get(self, index: int) -> int:
        return struct.unpack_from("q", self.memory, 8 * index)[0]

    def _set(self, index: int, value: int) -> None:
        struct.pack_into("q", self.memory, 8 * index, value)

    calls = property(lambda self: self._get(0), lambda self, new: self._set(0, new))
    now = property(lambda self: self._get(1), lambda self, new: self._set(1, new))
    struck = property(lambda self: self._get(2), lambda self, new: self._set(2, new))

    def strike(self) -> None:
        """Remember that it struck, and where: the place's number plus one."""
        self.struck = self.now + 1


class Faulty:
    """Puts a fault into this process and those it forks."""

    def __init__(self, fault: Fault | None, block: Block) -> None:
        self.fault, self.block, self.full = fault, block, False

    def install(self) -> None:
        """Count the calls that touch the disk, and follow where the run is."""
        import torch

        from ftcli.core.run_dir import RunDir
        from ftcli.trainer import checkpoint_io

        self._point(os, "replace")
        self._point(os, "rename")
        self._point(os, "fsync")
        self._point(shutil, "rmtree", _half_removed)
        self._point(torch, "save", _half_saved)
        self._point(checkpoint_io, "save_file", _half_tensors)
        self._point(RunDir, "_append_line", _half_line)
        self._follow()
        if self.fault is None or not self.fault.pictures:
            from ftcli.run import finish

            finish.write_report = _short_report  # type: ignore[assignment]

    def _follow(self) -> None:
        from ftcli.data import cache
        from ftcli.jobs import train
        from ftcli.trainer.checkpoint import Checkpoints
        from ftcli.trainer.context import TrainingContext
        from ftcli.trainer.trainer import Trainer

        inside = {
            "token cache": (cache, "find_or_write"), "evaluation": (TrainingContext, "evaluate"),
            "step": (Trainer, "train_step"), "checkpoint": (Checkpoints, "save"),
            "finish": (train, "finish"),
        }  # fmt: skip
        for place, (owner, name) in inside.items():
            setattr(owner, name, self._within(getattr(owner, name), PLACES.index(place)))

    def _within(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            before, self.block.now = self.block.now, place
            try:
                return function(*args, **options)
            finally:
                self.block.now = before

        return called

    def _point(self, owner: Any, name: str, half: Callable[..., None] | None = None) -> None:
        original = getattr(owner, name)

        def called(*args: Any, **options: Any) -> Any:
            number = self.block.calls = self.block.calls + 1
            fault = self.fault
            if fault is None or fault.call is None or not self._fits(name, options):
                return original(*args, **options)
            if self.full:
                raise self._error(name, args)
            if self.block.struck or number < fault.call:
                return original(*args, **options)
            return self._strike(name, original, half, args, options)

        setattr(owner, name, called)

    def _fits(self, name: str, options: dict[str, Any]) -> bool:
        """Deleting needs no space, and errors of it are often meant to be ignored."""
        return self.fault is not None and not (name == "rmtree" and self.fault.what in ERRORS)

    def _strike(self, name: str, original: Any, half: Any, args: Any, options: Any) -> Any:
        fault = self.fault
        assert fault is not None
        self.block.strike()
        if fault.what == TERM:
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **options)
        if fault.share >= 1.0 and fault.what == KILL:
            original(*args, **options)
        elif fault.share > 0.0 and half is not None:
            half(original, fault.share, *args, **options)
        if fault.what == KILL:
            die(fault.everything)
        self.full = fault.lasting
        raise self._error(name, args)

    def _error(self, name: str, args: Any) -> Exception:
        assert self.fault is not None
        code = ERRORS[self.fault.what]
        if name == "save_file":  # a library that is not Python
            from safetensors import SafetensorError

            said = f"{os.strerror(code)} (os error {code})"
            return SafetensorError(f"Error while serializing: I/O error: {said}")
        return OSError(code, os.strerror(code), next((str(a) for a in args if _is_path(a)), None))


def die(everything: bool) -> None:
    """Kill this process, or all that belong to the command."""
    if everything:
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _short_report(run_dir: Any) -> None:
    from ftcli.core.atomic import write_text

    write_text(run_dir.path / "report.md", "")


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path)


def _half_saved(original: Any, share: float, value: Any, stream: Any) -> None:
    whole = io.BytesIO()
    original(value, whole)
    stream.write(whole.getvalue()[: int(share * whole.tell())])
    stream.flush()


def _half_tensors(original: Any, share: float, tensors: Any, path: Path, **options: Any) -> None:
    original(tensors, path, **options)
    os.truncate(path, int(share * path.stat().st_size))


def _half_line(original: Any, share: float, run_dir: Any, name: str, value: Any) -> None:
    line = json.dumps(dict(value), default=str)
    with open(run_dir.path / name, "a") as stream:
        stream.write(line[: int(share * len(line))])


def _half_removed(original: Any, share: float, path: Any, *args: Any, **options: Any) -> None:
    if Path(path).is_dir():
        files = sorted(Path(path).iterdir())
        for file in files[: int(share * len(files))]:
            if file.is_file():
                file.unlink()
