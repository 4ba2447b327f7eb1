"""Errors of the disk as messages: full, no permission, input/output error."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ftcli.core.errors import FAILED, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class NotEnoughSpace(OSError):
    """A write was not begun, because the disk has not enough space for it.

    Attributes:
        needed, free: bytes.
    """

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        super().__init__(errno.ENOSPC, "not enough space", str(folder))
        self.needed, self.free = needed, free

    def __str__(self) -> str:
        return f"it needs {format_bytes(self.needed)}, {format_bytes(self.free)} are free"


def require_space(folder: Path, needed: int) -> None:
    """Check that `needed` bytes can be written below a folder that exists.

    Raises:
        NotEnoughSpace: fewer are free.
    """
    if needed > free_bytes(folder):
        raise NotEnoughSpace(folder, needed, free_bytes(folder))


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write in a folder."""
    return shutil.disk_usage(folder).free


def describe_fault(error: BaseException) -> str | None:
    """Return why the disk refused a read or write, in words; None where it is not the disk's fault."""
    for cause in _iterate_causes(error):
        code = _find_error_number(cause)
        if code in FULL:
            space = isinstance(cause, NotEnoughSpace)
            return f"the disk is full: {cause}" if space else "the disk is full"
        if code in DENIED:
            name = getattr(cause, "filename", None)
            return f"no permission{f' for {name}' if name else ''}"
        if code == errno.EIO:
            return "the disk reports an input/output error"
    return None


def run_error(
    error: BaseException, folder: Path, lost: str = "the run stopped"
) -> UserError | None:
    """Return the message for a run in `folder` that an error of the disk ended; None for other errors."""
    fault = disk_error(error)
    if fault is None:
        return None
    return UserError(
        f"{lost}: {fault.what} What was saved before is intact.",
        where=str(folder),
        fix=f"{fault.fix}, then: ftcli resume {folder}",
        code=FAILED,
    )


def disk_error(error: BaseException) -> UserError | None:
    """Return the message for an error of the disk outside of a run; None for other errors."""
    fault = describe_fault(error)
    if fault is None:
        return None
    fix = "free space" if fault.startswith("the disk is full") else "make it readable and writable"
    return UserError(f"{fault}.", fix=fix, code=FAILED)


def format_bytes(count: int) -> str:
    """Return a number of bytes in GB, MB or kB (powers of 1000)."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _find_error_number(error: BaseException) -> int | None:
    """The system's error number; libraries written in Rust leave it in their text."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None
