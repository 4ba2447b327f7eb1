"""Numbered, decoded lines of a plain or gzipped file; what every line-based reader stands on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from ftcli.errors import UserError


class Line(NamedTuple):
    """One line; `text` has replacement characters where `error` says it is not UTF-8."""

    number: int
    text: str
    error: str | None


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked when its name ends in .gz."""
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return open(path, "rb")


def lines(path: Path) -> Iterator[Line]:
    """Every line of a UTF-8 file; a byte order mark at its start is dropped.

    Raises:
        UserError: the packed file is damaged; names the line where reading stopped.
    """
    number = 0
    with open_bytes(path) as stream:
        try:
            for raw in stream:
                number += 1
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                yield _decode(number, raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"the file is damaged or cut off: {error}.",
                where=f"{path}:{number + 1}",
                fix="fetch or pack the file again",
            ) from error


def _decode(number: int, raw: bytes) -> Line:
    try:
        return Line(number, raw.decode("utf-8"), None)
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text: byte 0x{raw[error.start]:02x} at position {error.start}."
        return Line(number, raw.decode("utf-8", errors="replace"), why)
