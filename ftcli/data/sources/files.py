"""Local files: one file, a folder, or a glob pattern."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError
from ftcli.data.readers import can_read, count_rows, list_readers, read
from ftcli.data.rows import RowOrError
from ftcli.data.sources.paths import (
    check_name,
    list_files,
    refuse_dangling_link,
    translate_os_errors,
    unreadable_error,
)

WELL_KNOWN = ("train", "validation", "valid", "val", "dev", "test")
BLOCK = 1 << 20
#: Suffixes of files that often hold rows and that have no reader.
UNREAD = {
    ".arrow", ".feather", ".avro", ".orc", ".xlsx", ".xls", ".pkl", ".h5", ".tfrecord", ".zip", ".tar",
    ".zst", ".xz", ".bz2", ".lz4", ".7z", ".gz",
}  # fmt: skip


class Files:
    """Rows of one or more files, file after file.

    Args:
        paths: the files, in order.
        path: the path as the user wrote it.
        unit: what one row of a text file is: file, paragraph or line.
        title: name in `data.json`; None: the path.
        rest: files of the same folder that seem to hold rows and are not read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        path: str,
        unit: str = "file",
        title: str | None = None,
        rest: Sequence[Path] = (),
    ) -> None:
        self.paths, self.path, self.unit, self.title = list(paths), path, unit, title or path
        self.place = "\n".join(map(str, self.paths))
        self.rest = list(rest)

    @property
    def notes(self) -> list[str]:
        """Warnings on the choice of files."""
        names = ", ".join(p.name for p in self.rest[:8])
        many = (
            f"{len(self.rest):,} files of {self.path} are"
            if self.rest[1:]
            else f"a file of {self.path} is"
        )
        return [f"{many} not read: {names}"] if self.rest else []

    def rows(self) -> Iterator[RowOrError]:
        for path in self.paths:
            with translate_os_errors(path):
                yield from read(path, self.unit)

    def count_rows(self) -> int | None:
        counts = [count_rows(path) for path in self.paths]
        return None if None in counts else sum(count for count in counts if count is not None)

    @cached_property
    def content_hash(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            digest.update("".join(path.suffixes).encode())
            with translate_os_errors(path), open(path, "rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
        return digest.hexdigest()

    def open_split(self, split: str) -> Files:
        return find_files(self.path, split, self.unit, self.title)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self.title,
            "files": [path.name for path in self.paths],
            "not_read": [path.name for path in self.rest],
            "licence": read_licence(self.paths[0].parent),
        }


def read_licence(folder: Path) -> str | None:
    """Read the licence from the `Licence:` line of LICENSE.md beside the files; None without one."""
    note = folder / "LICENSE.md"
    if not note.is_file():
        return None
    line = re.search(r"^Licence: (.+)$", note.read_text(encoding="utf-8"), re.MULTILINE)
    return line[1].rstrip(" ,") if line else None


def exists_locally(path: str) -> bool:
    """Whether a path or glob pattern matches a local file or folder."""
    try:
        return Path(path).expanduser().exists() or bool(glob.glob(path, recursive=True))
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # a name that is too long, the home of an unknown user
        return False


def find_files(
    path: str, split: str = "train", unit: str = "file", title: str | None = None
) -> Files:
    """Return the files of a path; in a folder with `train.*` and `test.*`, those of the split.

    Raises:
        UserError: there is no such file, none with a reader, or none that may be read.
    """
    try:
        return _select_files(path, split, unit, title)
    except (OSError, RuntimeError, ValueError) as error:
        raise unreadable_error(path, error) from error


def _select_files(path: str, split: str, unit: str, title: str | None) -> Files:
    local = Path(path).expanduser()
    if local.is_file():
        if split != "train":
            raise UserError(
                f"{path} is one file, it has no split '{split}'.",
                where="data",
                fix="give the path of the other file instead",
            )
        return Files([check_name(local)], path, unit, title)
    paths = (
        list_files(local)
        if local.is_dir()
        else sorted(map(Path, glob.glob(str(local), recursive=True)))
    )
    paths = [check_name(p) for p in paths or [local] if p.is_file() or refuse_dangling_link(p)]
    if not paths:
        raise _missing_error(path, local)
    known = [p for p in paths if can_read(p)]
    if not known:
        raise UserError(
            f"{path} holds no data file of a known type.",
            where="data.path",
            fix=f"expected names that end in {', '.join(sorted(list_readers()))} (each also with .gz)",
        )
    chosen = known if not local.is_dir() else _select_split(known, split, path)
    rest = [p for p in paths if p not in chosen and _seems_left_out(p)]
    return Files(chosen, path, unit, title, [] if title else rest)


def _seems_left_out(path: Path) -> bool:
    """Whether a file that is not read seems to hold rows and belongs to no other split."""
    if any(_is_named_after(path, split) for split in WELL_KNOWN) and can_read(path):
        return False
    return can_read(path) or path.suffix.lower() in UNREAD


def _select_split(paths: list[Path], split: str, path: str) -> list[Path]:
    """Select the files named after the split; for train without such files, all but other splits' files."""
    mine = [p for p in paths if _is_named_after(p, split)]
    if not mine and split == "train":
        mine = [p for p in paths if not any(_is_named_after(p, other) for other in WELL_KNOWN)]
    if not mine:
        there = sorted({p.name for p in paths})[:8]
        raise UserError(
            f"{path} has no split '{split}': no file is named '{split}.*'. It holds {', '.join(there)}.",
            where="data",
            fix="name one of those files as the path",
        )
    return mine


def _is_named_after(path: Path, split: str) -> bool:
    return re.match(rf"{re.escape(split)}([._-]|$)", path.name) is not None


def _missing_error(path: str, local: Path) -> UserError:
    if local.is_dir():
        return UserError(f"{path} is an empty folder.", "data.path", "put the files into it")
    folder = local.parent if local.parent.is_dir() else Path(".")
    near = get_close_matches(local.name, [p.name for p in folder.iterdir()], 1)
    hint = f"did you mean {folder / near[0]}?" if near else "check the path"
    return UserError(
        f"{path}: no such file or folder.",
        where="data.path",
        fix=f"{hint} (relative paths start at {Path.cwd()})",
    )
