"""Writes that are whole or absent: a temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_text(path: str | Path, text: str) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, never a part."""
    path = Path(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """The same for a value as indented JSON; numbers keep every digit."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def folder(target: str | Path) -> Iterator[Path]:
    """A temporary folder to fill, which takes the place of `target` when the block ends well."""
    target = Path(target)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield unfinished
        os.chmod(unfinished, 0o755)
        for file in [*unfinished.rglob("*"), unfinished]:
            _sync(file)
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _sync_folder(target.parent)


def link(path: Path, to: str) -> None:
    """Point the symbolic link `path` at `to`, replacing what it pointed at before."""
    name = path.with_name(f".{path.name}.{os.getpid()}")
    name.unlink(missing_ok=True)
    name.symlink_to(to)
    os.replace(name, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        _sync(path)
