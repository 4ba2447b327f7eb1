"""What a disk refuses, told before or after it does: full, no permission, broken."""

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
    """A write that was not begun, because it would not have fitted."""

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        super().__init__(errno.ENOSPC, "no room", str(folder))
        self.needed, self.free = needed, free

    def __str__(self) -> str:
        return f"it needs {size(self.needed)}, {size(self.free)} are free"


def require(folder: Path, needed: int) -> None:
    """Make sure that so many bytes can be written below a folder that exists.

    Raises:
        NotEnoughSpace: fewer are free.
    """
    if needed > free(folder):
        raise NotEnoughSpace(folder, needed, free(folder))


def free(folder: Path) -> int:
    """Bytes that this user may still write there."""
    return shutil.disk_usage(folder).free


def refusal(error: BaseException) -> str | None:
    """Why the disk did not take what was written, in words; None where it is not at fault."""
    for one in _chain(error):
        code = _code(one)
        if code in FULL:
            return f"the disk is full: {one}" if isinstance(one, NotEnoughSpace) else "the disk is full"
        if code in DENIED:
            name = getattr(one, "filename", None)
            return f"no permission{f' for {name}' if name else ''}"
        if code == errno.EIO:
            return "the disk reports an input/output error"
    return None


def explained(
    error: BaseException, folder: Path, lost: str = "the run stopped"
) -> UserError | None:
    """The one message for a run in `folder` that the disk has ended; None for other errors."""
    told = message(error)
    if told is None:
        return None
    return UserError(
        f"{lost}: {told.what} What was saved before is intact.",
        where=str(folder),
        fix=f"{told.fix}, then: ftcli resume {folder}",
        code=FAILED,
    )


def message(error: BaseException) -> UserError | None:
    """The one message for anything else that the disk refused; None for other errors."""
    why = refusal(error)
    if why is None:
        return None
    fix = "free space" if why.startswith("the disk is full") else "make it readable and writable"
    return UserError(f"{why}.", fix=fix, code=FAILED)


def size(count: int) -> str:
    """Bytes as people say them."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> int | None:
    """The system's number; libraries that are not Python leave it in their text."""
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None
