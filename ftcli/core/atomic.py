"""Atomic writes: under a temporary name, fsync, rename; a reader finds all of a file or nothing."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: End of a temporary name, which tells it from hidden files of others.
UNFINISHED = ".unfinished"
ASIDE = ".replaced"  # end of a folder's name between its being replaced and its being deleted


def write_text(path: str | Path, text: str) -> None:
    """Write a file; a reader finds the old content or the new, never a part, also after a crash."""
    path = Path(path)
    name = _build_unfinished_path(path)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, as `write_text` does; numbers keep every digit."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def write_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, which takes the place of `target` when the block ends without error.

    The old folder is deleted only after the new one has its name; `recover` repairs a crash between
    the two.
    """
    target = Path(target)
    unfinished = _build_unfinished_path(target)
    unfinished.mkdir()
    aside = target.with_name(f".{target.name}{ASIDE}")
    try:
        yield unfinished
        follow_umask(unfinished, *unfinished.rglob("*"))
        for file in [*unfinished.rglob("*"), unfinished]:
            sync(file)
        if target.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(target, aside)
        os.replace(unfinished, target)
    except BaseException:
        recover(target.parent)
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def follow_umask(folder: Path, *files: Path) -> None:
    """Give files the permissions of a new file in the folder, which follow the umask.

    safetensors writes to temporary files that only their owner can read, and keeps these permissions.
    """
    probe = _build_unfinished_path(folder / "probe")
    probe.touch(exist_ok=False)
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in files:
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def _build_unfinished_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{UNFINISHED}")


def recover(parent: Path) -> None:
    """Rename folders that a crash has left aside back to their names; remove those that were replaced."""
    for aside in parent.glob(f".*{ASIDE}"):
        target = aside.with_name(aside.name[1 : -len(ASIDE)])
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(aside, target)


def remove_unfinished(parent: Path) -> None:
    """Remove what interrupted writes have left in a folder, to which no other process may write now."""
    recover(parent)
    for path in parent.glob(f".*{UNFINISHED}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_link(path: Path, to: str) -> None:
    """Point the symbolic link `path` at `to`, in the place of its old target if it exists."""
    name = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    name.unlink(missing_ok=True)
    try:
        name.symlink_to(to)
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk (fsync)."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
