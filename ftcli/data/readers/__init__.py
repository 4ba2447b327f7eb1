"""Readers of data files: one module a file type, found by the suffixes it declares.

A reader module has `SUFFIXES` and `read(path, unit)`, which yields rows one at a time in constant
memory. Every suffix may be followed by `.gz`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.data.rows import RowOrError

Reader = Callable[[Path, str], Iterator[RowOrError]]


@cache
def list_readers() -> dict[str, Reader]:
    """Return suffix -> reader, for every module of this package."""
    readers: dict[str, Reader] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        readers |= {suffix: module.read for suffix in getattr(module, "SUFFIXES", ())}
    return readers


def suffix_of(path: Path) -> str:
    """Return the suffix that names the file type: `.jsonl` for `rows.jsonl.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def can_read(path: Path) -> bool:
    """Whether there is a reader for files of this name."""
    return suffix_of(path) in list_readers()


def read(path: Path, unit: str = "file") -> Iterator[RowOrError]:
    """Yield the rows of one file, in order.

    Args:
        path: the file; its suffix chooses the reader.
        unit: for text files, what is one row: file, paragraph or line.

    Raises:
        UserError: there is no reader for the suffix.
    """
    reader = list_readers().get(suffix_of(path))
    if reader is None:
        raise UserError(
            f"files named '*{suffix_of(path)}' have no reader.",
            where=str(path),
            fix=f"convert it to one of {', '.join(sorted(list_readers()))} (each also with .gz)",
        )
    return reader(path, unit)


def count_rows(path: Path) -> int | None:
    """Return about how many rows a file has, without parsing them; None where only reading would tell.

    Lines are counted for types that have a row a line, so that blank lines count too.
    """
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if path.suffix.lower() in getattr(module, "SUFFIXES", ()) and hasattr(module, "count"):
            return int(module.count(path))
    return None
