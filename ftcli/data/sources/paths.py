"""List and check paths of data files, and translate errors of the system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.data.readers import can_read


def list_files(folder: Path) -> list[Path]:
    """List all files below a folder, except names that begin with a dot; linked folders only once.

    Raises:
        OSError: a folder below may not be read.
    """
    paths: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_reraise):
        if os.path.realpath(root) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(root) / name for name in names if not name.startswith(".")]
    return sorted(paths)


def _reraise(error: OSError) -> None:
    raise error


def refuse_dangling_link(path: Path) -> bool:
    """Return False, unless a data file is a link to a file that does not exist.

    Raises:
        UserError: it is such a link.
    """
    if path.is_symlink() and not path.exists() and can_read(path):
        raise UserError(
            f"{path} is a link to a file that does not exist.",
            where="data.path",
            fix=f"remove the link, or fetch what it points to: {os.readlink(path)}",
        )
    return False


def check_name(path: Path) -> Path:
    """Return the path, whose name has to be valid UTF-8.

    Raises:
        UserError: it is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the name of the file {ascii(str(path))} is not UTF-8.",
            where="data.path",
            fix="rename the file",
        ) from error
    return path


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a UserError."""
    try:
        yield
    except OSError as error:
        raise unreadable_error(str(path), error) from error


def unreadable_error(path: str, error: Exception) -> UserError:
    """Error for a path that cannot be read."""
    why = getattr(error, "strerror", None) or error
    place = getattr(error, "filename", None) or path
    return UserError(
        f"cannot be read: {why}.", where=str(place)[:300], fix="check path and permissions: ls -ld"
    )
