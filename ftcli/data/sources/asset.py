"""Data sets that ship with ftcli: `asset:e2e`, `asset:gsm8k`."""

from __future__ import annotations

from importlib.resources import files as package_files
from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.data.sources.files import Files

PREFIX = "asset:"


def root() -> Path:
    """Folder with one folder for each shipped data set."""
    return Path(str(package_files("ftcli"))) / "assets" / "data"


def names() -> list[str]:
    """Names of the shipped data sets."""
    return sorted(folder.name for folder in root().iterdir() if folder.is_dir())


def find_asset(path: str, split: str) -> Files:
    """Return the files of a split of a shipped set: `asset:<set>` or `asset:<set>:<split>`.

    Raises:
        UserError: there is no such set or split.
    """
    name, _, named = path.removeprefix(PREFIX).partition(":")
    folder = root() / name
    if name not in names():
        raise UserError(
            f"no data set '{name}' ships with ftcli.",
            where="data.path",
            fix=f"use one of {', '.join(PREFIX + known for known in names())}",
        )
    from ftcli.data.sources.files import find_files

    return find_files(str(folder), named or split, title=PREFIX + name)
