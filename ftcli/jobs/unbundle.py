"""Unpack a bundle: only plain files below the target, each with the hash that the bundle's index names."""

from __future__ import annotations

import hashlib
import json
import shlex
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ftcli.core import atomic, disk
from ftcli.core.errors import UserError
from ftcli.jobs.bundle import INDEX, VERSION
from ftcli.trainer.manifest import BLOCK

LARGEST_INDEX = 1 << 26  # bytes


@dataclass(frozen=True)
class Unpacked:
    """A bundle on this machine.

    Attributes:
        command: repeats the run, in the folder.
        notes: those of the bundle, and where this machine differs.
    """

    folder: str
    command: str
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        return vars(self)


def unpack_bundle(file: str | Path, to: str | Path) -> Unpacked:
    """Unpack a bundle into a new folder, which appears whole or not at all.

    Raises:
        UserError: the folder exists, or the file is no bundle, is damaged, or holds what its index does not
            name: a link, a path that leaves the folder, another file.
    """
    target = Path(to)
    if target.exists():
        raise UserError(f"{target} exists already.", where="--to", fix="name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(file, "r:gz") as tar:
            index = _read_index(tar, file)
            needed = sum(meant["bytes"] for meant in index["files"].values())
            disk.require_space(target.parent, needed)
            with atomic.write_folder(target) as unfinished:
                _unpack(tar, index["files"], unfinished)
                atomic.write_json(unfinished / INDEX, index)
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no bundle, or a damaged one: {error}", where=str(file)) from error
    threads = f"OMP_NUM_THREADS={int(index['threads'])} " if index.get("threads") else ""
    command = f"cd {shlex.quote(str(target))} && {threads}ftcli train config.yaml"
    return Unpacked(str(target), command, [*map(str, index["notes"]), *_compare_packages(index)])


def _read_index(tar: tarfile.TarFile, file: str | Path) -> dict[str, Any]:
    """The index, which is the first member."""
    first = tar.next()
    if first is None or first.name != INDEX or not first.isreg() or first.size > LARGEST_INDEX:
        raise UserError(f"{file} is no bundle: it does not begin with {INDEX}.", where=str(file))
    stream = tar.extractfile(first)
    assert stream is not None
    index = json.loads(stream.read())
    if index["bundle"] != VERSION:
        raise UserError(
            f"the bundle has layout {index['bundle']}, this version reads {VERSION}.", str(file),
            f"pip install ftcli=={index['ftcli']}",
        )  # fmt: skip
    for name in index["files"]:
        _check_name(name)
    return index


def _check_name(name: str) -> None:
    """Refuse a name that leaves the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or str(path) != name:
        raise ValueError(f"{name!r} is no path inside the folder")


def _unpack(tar: tarfile.TarFile, files: dict[str, Any], folder: Path) -> None:
    """Write every member that the index names; members are read, never extracted by their own settings."""
    waiting = dict(files)
    while (member := tar.next()) is not None:
        meant = waiting.pop(member.name, None)
        if meant is None or not member.isreg() or member.size != meant["bytes"]:
            raise ValueError(f"{member.name!r} is not what the index names")
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = tar.extractfile(member)
        assert stream is not None
        if _copy(stream, target) != meant["sha256"]:
            raise ValueError(f"{member.name!r} has other content than was packed")
    if waiting:
        raise ValueError(f"{', '.join(waiting)} is missing")


def _copy(stream: IO[bytes], target: Path) -> str:
    """Write a stream to a new file; returns its SHA-256."""
    digest = hashlib.sha256()
    with open(target, "xb") as out:
        while block := stream.read(BLOCK):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def _compare_packages(index: dict[str, Any]) -> list[str]:
    """Say which packages have other versions here."""
    from ftcli.run.record import PACKAGES, find_version

    then = index["packages"]
    pairs = [(name, then[name], find_version(name)) for name in PACKAGES if name in then]
    other = [f"{name} {now or 'is absent'} (was {was})" for name, was, now in pairs if now != was]
    return [f"packages differ here: {', '.join(other)}; see requirements.txt"] if other else []
