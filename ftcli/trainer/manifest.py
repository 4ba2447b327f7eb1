"""The manifest of a checkpoint: size and SHA-256 of its files, by which damage is detected before use."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ftcli.core import atomic
from ftcli.core.disk import format_bytes

DONE = "DONE"
BLOCK = 1 << 24  # bytes read at a time


def write_manifest(folder: Path) -> None:
    """Write DONE: bytes and SHA-256 of every file in the folder.

    Raises:
        OSError: a file is incomplete although writing it raised no error.
    """
    files = sorted(path for path in folder.iterdir() if path.name != DONE)
    for path in files:
        if not _is_complete(path):
            raise OSError(5, "the file was not written completely", str(path))
    listed = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}
    atomic.write_json(folder / DONE, listed)


def find_damage(folder: Path, verify_files: Collection[str] | None = None) -> str | None:
    """Return what is damaged in a checkpoint (the file and what differs); None for an intact one.

    Args:
        verify_files: patterns of the files whose hash is checked; the others only by size. None: all.
    """
    try:
        listed = read_manifest(folder)
    except (OSError, ValueError):
        return f"{DONE} is no list of files"
    for name, meant in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        found = path.stat().st_size
        if found != meant["bytes"]:
            return f"{name} has {found:,} bytes, not the {meant['bytes']:,} that were written"
    for name, meant in listed.items():
        if verify_files is None or any(fnmatchcase(name, p) for p in verify_files):
            found_hash = sha256(folder / name)
            if found_hash != meant["sha256"]:
                was = meant["sha256"][:12]
                return f"{name} has other content: SHA-256 {found_hash[:12]}, written was {was}"
    return None if listed else _find_malformed_file(folder)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return file -> `bytes` and `sha256`; empty where a version without checksums wrote the folder.

    Raises:
        ValueError: DONE is not such a list.
    """
    text = (folder / DONE).read_text(encoding="utf-8")
    listed = json.loads(text) if text else {}
    if not isinstance(listed, dict):
        raise ValueError(DONE)
    for name, meant in listed.items():
        if (
            Path(name).name != name
            or not isinstance(meant, dict)
            or {"bytes", "sha256"} - set(meant)
        ):
            raise ValueError(DONE)
    return listed


def total_bytes(folder: Path) -> int:
    """Return the bytes of all files of a checkpoint."""
    return sum(path.stat().st_size for path in folder.iterdir())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _find_malformed_file(folder: Path) -> str | None:
    """Return the first file that its own format shows to be incomplete; for folders without checksums."""
    for path in sorted(folder.iterdir()):
        if path.name != DONE and not _is_complete(path):
            return f"{path.name} is incomplete ({format_bytes(path.stat().st_size)})"
    return None


def _is_complete(path: Path) -> bool:
    """Whether the file can be opened: a safetensors header that fits its length, a zip directory, or not empty."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt"):
                return True
        except (SafetensorError, OSError):
            return False
    if path.suffix == ".pt":
        return zipfile.is_zipfile(path)
    return path.stat().st_size > 0


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))
